"""The product's loader: prepared shards through NVIDIA DALI.

Note [Threads and streams of the loader]

    plan, read           one reader thread
    decode               DALI's threads and, on a GPU, DALI's streams
    hand over, collect   on a GPU the caller, on a CPU one driver thread
    resample, log-mel    on a GPU DALI's graphs, on a CPU a pool of single-threaded torch threads
    wait, hand out       the caller

Only one thread reads, because the reader's table of open files is not shared; the reads of a batch still overlap, since
the kernel is told all its ranges first. The reader makes the plans too, so that NumPy's work is out of the step's way.

DALI's graphs are not thread-safe, so one thread hands over batches and collects them. On a GPU that must be the caller:
torch's current stream belongs to a thread, and the copy of DALI's output is ordered by the stream of whoever uses it.
Nothing is left to do there once a graph has ended. On a CPU the driver crops DALI's output and hands it to the pool
while the caller computes; if the caller did this, the pool would idle during each step.

On a CPU all of these but the caller run at idle priority (data.idle_priority), DALI's threads because they inherit it
from the driver, which builds the graph: they use the cores that the training step leaves idle.

Memory: the bytes of an item belong to it until the decoder takes them over, and to DALI's runner until they are
decoded. On a CPU the decoded frames are views of DALI's output, which DALI does not write to while they are referenced;
the batch is torch's memory. On a GPU the batch is a copy in torch's memory, made in the caller's stream (see
`as_tensor`). So a batch is the caller's to keep and to change, and no thread keeps a reference to it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch

from common.cpu_priority import use_idle_priority
from pipeline.batch import Batch
from pipeline.load.clip_loader import ClipLoader
from pipeline.load.cpu_decoder import CpuDecoder
from pipeline.load.dali_runner import DecodeError
from pipeline.load.decoder import Decoder, InFlight
from pipeline.load.gpu_decoder import GpuDecoder
from pipeline.plan.batch_plan import BatchPlan
from pipeline.plan.clips import ClipPlan
from pipeline.shards.codecs import CODECS, Inputs
from pipeline.shards.manifest import Manifest
from pipeline.shards.reader import ShardError, ShardReader
from settings import Config


class DaliLoader(ClipLoader[Manifest]):
    """Reads ahead in a thread and keeps a decoder busy; see `make_loader` for what it yields.

    Up to data.prefetch batches wait in each station.

    Raises:
        ManifestError: data.path holds no complete prepared data set.
        ConfigError: as ClipLoader.
    """

    def __init__(
        self,
        *,
        config: Config,
        device: str | torch.device = "cpu",
        rank: int = 0,
        world_size: int = 1,
        batch_size: int | None = None,
    ) -> None:
        dataset = Manifest.open(config.data.path)
        super().__init__(
            config=config,
            dataset=dataset,
            fps=dataset.storage.fps,
            device=device,
            rank=rank,
            world_size=world_size,
            batch_size=batch_size,
        )
        self._codec = CODECS[dataset.storage.codec]
        stride = self.planner.stride
        self._reader = ShardReader(
            manifest=dataset, frames=config.clip.frames, stride=stride, audio_samples=config.audio_samples
        )
        on_gpu = self.device.type == "cuda"
        self._decoder: Decoder
        if on_gpu:
            self._decoder = GpuDecoder(
                config=config, dataset=dataset, stride=stride, device=self.device, batch=self.batch_size
            )
        else:
            self._decoder = CpuDecoder(config=config, dataset=dataset, stride=stride, batch=self.batch_size)
        idle = config.data.idle_priority and not on_gpu
        self._reading = ThreadPoolExecutor(1, "shard-reader", use_idle_priority if idle else None)

    def waveforms(self, plan: ClipPlan) -> np.ndarray:
        """The audio windows of a plan before they become spectrograms, int16 [B, samples].

        Raises:
            ShardError: a sample that cannot be read.
        """
        return self._reading.submit(self._reader.pcm, plan).result()

    def _batches(self, plans: Iterator[BatchPlan]) -> Iterator[Batch]:
        reading: deque[Future[InFlight | None]] = deque()
        in_flight: deque[InFlight] = deque()
        try:
            for _ in range(self.config.data.prefetch):
                reading.append(self._reading.submit(self._read_next, plans))
            while True:
                # The caller waits for bytes only when nothing else is in flight.
                while reading and len(in_flight) < self._decoder.depth and (not in_flight or reading[0].done()):
                    item = reading.popleft().result()
                    if item is None:
                        reading.clear()
                        break
                    reading.append(self._reading.submit(self._read_next, plans))
                    self._decoder.submit(item)
                    in_flight.append(item)
                if not in_flight:
                    return
                yield self._result(in_flight.popleft())
        finally:
            for future in reading:
                future.cancel()

    def _read_next(self, plans: Iterator[BatchPlan]) -> InFlight | None:
        batch = next(plans, None)
        return None if batch is None else self._read(batch)

    def _read(self, batch: BatchPlan) -> InFlight:
        """Reads the bytes of a batch; samples that cannot be read are replaced."""
        while True:
            try:
                video, pcm = self._bytes(batch.plan)
                return InFlight(plan=batch, video=video, pcm=pcm)
            except ShardError as error:
                if not batch.is_replaceable:
                    raise
                # The first error hides the others.
                errors = self._unreadable(batch.plan)
                if not errors:
                    raise ShardError(f"{error} (a second attempt to read it succeeded: check the disk)") from error
                batch.replace(errors)

    def _bytes(self, plan: ClipPlan) -> tuple[Inputs | None, np.ndarray | None]:
        video = self._codec.read(self._reader, plan) if self.has_video else None
        return video, self._reader.pcm(plan) if self.has_audio else None

    def _unreadable(self, plan: ClipPlan) -> dict[int, ShardError]:
        errors = {}
        for row in range(len(plan)):
            try:
                self._bytes(plan[row : row + 1])
            except ShardError as error:
                errors[row] = error
        return errors

    def _result(self, item: InFlight) -> Batch:
        """Waits for a batch; samples that do not decode are replaced."""
        while True:
            try:
                batch = self._decoder.result(item)
                break
            except DecodeError as error:
                item.plan.replace(self._undecodable(item.plan.plan, error))
                # DALI returns nothing of a batch that fails: all of it runs again.
                item = self._reading.submit(self._read, item.plan).result()
                self._decoder.submit(item)
        self.bad_samples.note(item.plan.bad)
        return batch

    def _undecodable(self, plan: ClipPlan, error: DecodeError) -> dict[int, ShardError]:
        """Which clips (by row) do not decode, and the error for each."""
        if not error.samples:
            raise ShardError(f"DALI failed on a batch, though on none of its samples alone: {error}") from error
        errors = {}
        for place in error.samples:
            row = place // self._codec.samples_per_clip(self.config.clip.frames)
            i = int(plan.ids[row])
            shard = self.dataset.root / self.dataset.shards[int(self.dataset.shard[i])]
            errors[row] = ShardError(
                f"sample {i} ({self.dataset.source(i)}) in shard {shard} does not decode. Copy the shard again, or run "
                f"pipeline.prepare again. DALI says: {error}",
                sample=i,
                file=str(shard),
                reason="it does not decode",
            )
        return errors
