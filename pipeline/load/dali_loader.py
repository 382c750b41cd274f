"""The production loader: reads prepared shards and decodes them with NVIDIA DALI.

Note [Threads and streams of the loader]

    stage                              on a GPU               on a CPU
    plan, read                         reader thread          reader thread
    decode                             DALI's GPU streams     DALI's threads
                                       and threads
    submit to DALI, collect results    caller                 driver thread
    resample, log-mel                  DALI's graphs          pool of single-threaded torch threads
    wait for a batch, yield it         caller                 caller

As long as the bytes are in memory, one thread reads: more would only compete with the model. It also plans, to keep
NumPy out of the training step. Ranges that are not in memory are read by a pool of threads, all ranges of a batch at
the same time. If reading waits for disks or servers, several batches are read at the same time, by threads of their
own, as many as the measured waiting time asks for (`BatchesAhead`); plans are still made by the one thread, in order.

DALI's graphs are not thread-safe, so a single thread submits batches and collects results. On a GPU this must be the
caller: torch's current stream is per thread, and the copy of DALI's output must be ordered with the stream that uses
it. The caller has no other work there, because the graphs end with finished tensors. On a CPU the driver crops DALI's
output and submits it to the pool while the caller computes; if the caller did this, the pool would idle during each
training step.

On a CPU all threads except the caller run at idle priority (data.idle_priority): they use the cores that the training
step leaves idle. DALI's threads inherit the priority from the driver, which builds the graph.

Memory: an `InFlight` item owns its bytes until the decoder takes them over; then `GraphRunner` does until they are
decoded. On a CPU the decoded frames are views of DALI's output, which DALI does not write to while they are referenced;
the batch is in torch's memory. On a GPU the batch is a copy in torch's memory, made in the caller's stream (see
`as_tensor`). So the caller may keep and modify a batch, and no thread keeps a reference to it.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import numpy as np
import torch

from common.cpu_priority import use_idle_priority
from common.phases import begin
from common.stores import RemotePath
from common.terminal import printable
from pipeline.batch import Batch
from pipeline.load.ahead.batches import MOST_BATCHES, BatchesAhead
from pipeline.load.ahead.reads import Reads
from pipeline.load.ahead.shards import ShardsAhead
from pipeline.load.clip_loader import ClipLoader
from pipeline.load.cpu_decoder import CpuDecoder
from pipeline.load.dali_runner import DecodeError
from pipeline.load.decoder import Decoder, InFlight, StoredFrames
from pipeline.load.gpu_decoder import GpuDecoder
from pipeline.load.mixed import MixedDecoder, MixedReader
from pipeline.plan.batch_plan import BatchPlan
from pipeline.plan.clips import ClipPlan
from pipeline.plan.mixed_planner import MixedPlanner
from pipeline.shards.codecs import CODECS
from pipeline.shards.manifest import Manifest
from pipeline.shards.mix import MixedManifest
from pipeline.shards.reader import ShardError, ShardReader
from pipeline.shards.shard_files import open_cache, shard_files
from settings import Config

log = logging.getLogger(__name__)


class DaliLoader(ClipLoader[Manifest]):
    """Reads ahead in a thread and keeps a decoder busy; see `make_loader` for the interface.

    Each stage (read, decode and, on a CPU, resample) holds up to data.prefetch batches.

    Raises:
        ManifestError: data.path holds no complete prepared data set.
        ConfigError: as for ClipLoader.
    """

    def __init__(
        self,
        *,
        config: Config,
        device: str | torch.device = "cpu",
        rank: int = 0,
        world_size: int = 1,
        batch_size: int | None = None,
        dataset: Manifest | MixedManifest | None = None,
    ) -> None:
        dataset = self.open_dataset(config) if dataset is None else dataset
        super().__init__(
            config=config,
            # Only training opens a mix; other users of this loader read the further attributes of a single data set.
            dataset=cast(Manifest, dataset),
            fps=dataset.storage.fps if isinstance(dataset, Manifest) else 0.0,
            device=device,
            rank=rank,
            world_size=world_size,
            batch_size=batch_size,
        )
        begin("building the pipeline")
        on_gpu = self.device.type == "cuda"
        # On a CPU the threads that read must not take time from the model either.
        self._in_thread = use_idle_priority if config.data.idle_priority and not on_gpu else None

        def decoder(config: Config, frames: StoredFrames, stride: int) -> Decoder:
            options: dict[str, Any] = {"config": config, "dataset": frames, "stride": stride, "batch": self.batch_size}
            return GpuDecoder(**options, device=self.device) if on_gpu else CpuDecoder(**options)

        self._reader: ShardReader | MixedReader
        self._decoder: Decoder
        if isinstance(dataset, MixedManifest):
            assert isinstance(self.planner, MixedPlanner)
            self._reader = MixedReader(dataset, self.planner, config, in_threads=self._in_thread)
            strides = self.planner.strides
            self._decoder = MixedDecoder(dataset=dataset, strides=strides, config=config, make=decoder)
            self._places_per_clip = 1
        else:
            self._codec, stride = CODECS[dataset.storage.codec], self.planner.stride
            self._reader = ShardReader(
                manifest=dataset,
                frames=config.clip.frames,
                stride=stride,
                audio_samples=config.audio_samples,
                files=shard_files(dataset, open_cache(config.data) if isinstance(dataset.root, RemotePath) else None),
                in_threads=self._in_thread,
            )
            self._decoder = decoder(config, dataset, stride)
            self._places_per_clip = self._codec.samples_per_clip(config.clip.frames)
        self._reading = ThreadPoolExecutor(1, "shard-reader", self._in_thread)
        self._more_reading = ThreadPoolExecutor(MOST_BATCHES, "shard-readers", self._in_thread)

    @staticmethod
    def open_dataset(config: Config) -> Manifest | MixedManifest:
        """Opens the data set at data.path, or those of data.mix."""
        data = config.data
        if data.mix:
            return MixedManifest.open(data.mix, cache_dir=data.cache_dir)
        return Manifest.open(data.path, cache_dir=data.cache_dir)

    def waveforms(self, plan: ClipPlan) -> np.ndarray:
        """Reads the audio windows of a plan as PCM, int16 [B, samples], mixed and amplified as planned.

        Raises:
            ShardError: a sample cannot be read.
        """
        pcm = self._reading.submit(self._reader.pcm, plan).result()
        return np.clip(np.rint(pcm), -32768, 32767).astype(np.int16)

    def _batches(self, plans: Iterator[BatchPlan]) -> Iterator[Batch]:
        reads = self._reads(plans)
        in_flight: deque[InFlight] = deque()
        try:
            while True:
                # Wait for the reader only if no batch is in flight.
                while len(in_flight) < self._decoder.depth and (not in_flight or reads.is_ready()):
                    item = reads.take()
                    if item is None:
                        break
                    self._decoder.submit(item)
                    in_flight.append(item)
                if not in_flight:
                    return
                yield self._result(in_flight.popleft())
        except Exception:
            self.dataset.finish_check()  # a wrong number in the manifest may be the cause, and is then named
            raise
        finally:
            reads.close()

    def _step_plans(self, first: int, last: int, *, length: int) -> Iterator[BatchPlan]:
        """Only training reads each shard so often, and plans without side effects, that shards are copied ahead."""
        plans, files = super()._step_plans(first, last, length=length), self._reader.remote
        if files is None or files.cache is None:
            return plans
        shards_of = self._reader.shards_of
        return ShardsAhead(plans, files=files, shards_of=shards_of, in_thread=self._in_thread, clips=self.batch_size)

    def _reads(self, plans: Iterator[BatchPlan]) -> Reads:
        return Reads(
            plans,
            read=self._read,
            waited=self._reader.waited,
            ahead=BatchesAhead(
                least=self.config.data.prefetch,
                clips=self.batch_size,
                is_remote=self._reader.remote is not None,
            ),
            one=self._reading,
            several=self._more_reading,
        )

    def _read(self, batch: BatchPlan) -> InFlight:
        """Reads the bytes of a batch; samples that cannot be read are replaced."""
        while True:
            try:
                return self._from_sound_copies(batch)
            except ShardError as error:
                if not batch.is_replaceable:
                    raise
                # The error names only the first unreadable sample, so try each sample alone.
                errors = self._unreadable(batch.plan)
                if not errors:
                    raise ShardError(f"{error} (a second attempt to read it succeeded: check the disk)") from error
                batch.replace(errors)

    def _from_sound_copies(self, batch: BatchPlan) -> InFlight:
        """Reads the bytes of a batch, and reads them again after the removal of a damaged copy of a shard."""
        while True:
            removed = self._reader.removed
            try:
                return self._in_flight(batch)
            except ShardError as error:
                if error.sample is not None:
                    self._reader.distrust(error.sample)
                if self._reader.removed == removed:  # otherwise perhaps by another thread, which read the same copy
                    raise
                log.warning("the copy of %s in data.cache_dir is damaged; it is made again", printable(error.file))

    def _in_flight(self, batch: BatchPlan) -> InFlight:
        if isinstance(self._reader, MixedReader):
            return InFlight(plan=batch, parts=self._reader.parts(batch.plan))
        video = self._codec.read(self._reader, batch.plan) if self.has_video else None
        return InFlight(plan=batch, video=video, pcm=self._reader.pcm(batch.plan) if self.has_audio else None)

    def _unreadable(self, plan: ClipPlan) -> dict[int, ShardError]:
        """Finds the clips (by row) that cannot be read, and the error for each."""
        errors = {}
        for row in range(len(plan)):
            try:
                self._from_sound_copies(BatchPlan(plan[row : row + 1]))
            except ShardError as error:
                errors[row] = error
        return errors

    def _result(self, item: InFlight) -> Batch:
        """Waits for a batch; samples that cannot be decoded are replaced."""
        while True:
            try:
                batch = self._decoder.result(item)
                break
            except DecodeError as error:
                item.plan.replace(self._undecodable(item.plan.plan, error))
                # DALI returns nothing for a failed batch, so all of it is read and decoded again.
                item = self._reading.submit(self._read, item.plan).result()
                self._decoder.submit(item)
        self.dataset.raise_if_damaged()
        self.bad_samples.note(item.plan.bad)
        return batch

    def _undecodable(self, plan: ClipPlan, error: DecodeError) -> dict[int, ShardError]:
        """Finds the clips (by row) that cannot be decoded, and the error for each."""
        if not error.samples:
            raise ShardError(f"DALI failed on a batch, but on none of its samples alone: {error}") from error
        errors = {}
        for place in error.samples:
            row = place // self._places_per_clip
            i = int(plan.ids[row])
            shard = self._reader.file_of(i)
            errors[row] = ShardError(
                f"sample {i} ({printable(self.dataset.source(i))}) in shard {shard} does not decode. Copy "
                f"the shard again, or run pipeline.prepare again. DALI says: {error}",
                sample=i,
                file=shard,
                reason="it does not decode",
            )
        return errors
