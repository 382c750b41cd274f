"""The product's loader: prepared shards through NVIDIA DALI."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from common.cpu_priority import use_idle_priority
from pipeline.batch import Batch
from pipeline.load.clip_loader import ClipLoader, decode_threads
from pipeline.load.cpu_threads import PendingBatch, SingleThreadTorchPool
from pipeline.load.dali_graph import audio_graph, video_arguments, video_graph
from pipeline.load.dali_runner import DecodeError, GraphRunner, Inputs, Run, arrays, as_tensor
from pipeline.load.log_mel import LogMelRunner
from pipeline.load.resampling import Resampler
from pipeline.plan.batch_plan import BatchPlan
from pipeline.plan.clips import ClipPlan
from pipeline.shards.manifest import Manifest
from pipeline.shards.reader import ShardError, ShardReader
from settings import Config

Running = tuple[BatchPlan, "Run | None", "Run | PendingBatch | None"]


@dataclass
class Decoded:
    """A batch on its last way: on a CPU threads are still at work on it."""

    batch: BatchPlan
    pictures: torch.Tensor | PendingBatch | None
    audio: torch.Tensor | None


class DaliLoader(ClipLoader[Manifest]):
    """Stages side by side: a thread plans and reads, DALI's threads decode, the caller computes.

    On a CPU torch's threads resample what was decoded and compute the spectrograms. Up to data.prefetch batches wait in
    each stage. See `make_loader` for what it yields.

    Raises:
        ManifestError: data.path holds no whole prepared data set.
        ConfigError: as ClipLoader.
    """

    def __init__(
        self, *, config: Config, device: str | torch.device = "cpu", rank: int = 0, world_size: int = 1
    ) -> None:
        dataset = Manifest.open(config.data.path)
        super().__init__(
            config=config, dataset=dataset, fps=dataset.storage.fps, device=device, rank=rank, world_size=world_size
        )
        self._codec = dataset.storage.codec
        self._reader = ShardReader(
            manifest=dataset,
            frames=config.clip.frames,
            stride=self.planner.stride,
            audio_samples=config.audio_samples,
        )
        threads = decode_threads(config.data.threads)
        shape = {"device": self.device, "threads": threads, "batch": self.batch_size}
        sides = np.minimum(dataset.width, dataset.height)
        build_video = partial(
            video_graph,
            config=config,
            codec=self._codec,
            stride=self.planner.stride,
            shortest_side=int(sides[sides > 0].min(initial=np.iinfo(np.int32).max)),
            **shape,
        )
        depth = config.data.prefetch
        on_gpu = self.device.type == "cuda"
        self._samples = config.clip.frames if self._codec == "jpeg" else 1
        """Of the video graph in a clip."""
        own = as_tensor if on_gpu else partial(arrays, samples=self._samples)
        self._video: GraphRunner[Any] = GraphRunner(build_video, depth=depth, own=own)
        self._resampler: Resampler | None = None
        self._audio: Any
        if on_gpu:
            self._audio = GraphRunner(partial(audio_graph, config=config, **shape), depth=depth, own=as_tensor)
        else:
            of_torch = SingleThreadTorchPool(threads)
            self._resampler = Resampler(size=config.clip.size, threads=of_torch)
            self._audio = LogMelRunner(audio=config.audio, threads=of_torch)
        # One thread: the shard reader's table of open files is not shared, and reads of a batch overlap in the kernel.
        self._io = ThreadPoolExecutor(1, "shard-reader", None if on_gpu else use_idle_priority)
        # One thread for all iterators: the graphs are shared. Not for a GPU, whose current stream is the caller's.
        self._driver = None if on_gpu else ThreadPoolExecutor(1, "loader", use_idle_priority)

    def _batches(self, plans: Iterator[BatchPlan]) -> Iterator[Batch]:
        stages = self._stages(plans)
        if self._driver is None:
            yield from map(self._batch, stages)
            return
        waiting = deque(self._driver.submit(next, stages, None) for _ in range(self.config.data.prefetch))
        try:
            while (decoded := waiting.popleft().result()) is not None:
                waiting.append(self._driver.submit(next, stages, None))
                yield self._batch(decoded)
        finally:
            for future in waiting:
                future.cancel()
            try:
                self._driver.submit(stages.close)
            except RuntimeError:  # Python is shutting down and has ended its threads
                stages.close()

    def _stages(self, plans: Iterator[BatchPlan]) -> Generator[Decoded, None, None]:
        depth = self.config.data.prefetch
        reading = deque(self._io.submit(self._read_next, plans) for _ in range(depth))
        running: deque[Running] = deque()
        try:
            while True:
                while reading and len(running) < depth:
                    inputs = reading.popleft().result()
                    if inputs is None:
                        reading.clear()
                        break
                    reading.append(self._io.submit(self._read_next, plans))
                    running.append(self._submit(*inputs))
                if not running:
                    return
                yield self._decoded(*running.popleft())
        finally:
            for future in reading:
                future.cancel()

    def _read_next(self, plans: Iterator[BatchPlan]) -> tuple[BatchPlan, Inputs | None, Inputs | None] | None:
        batch = next(plans, None)
        return None if batch is None else self._read(batch)

    def _read(self, batch: BatchPlan) -> tuple[BatchPlan, Inputs | None, Inputs | None]:
        """What the graphs need for a batch, samples that cannot be read having been replaced."""
        while True:
            try:
                return batch, *self._inputs(batch.plan)
            except ShardError as error:
                if not batch.is_replaceable:
                    raise
                # The first error hides the others.
                errors = self._unreadable(batch.plan)
                if not errors:
                    raise ShardError(f"{error} (a second attempt to read it succeeded: check the disk)") from error
                batch.replace(errors)

    def _unreadable(self, plan: ClipPlan) -> dict[int, ShardError]:
        errors = {}
        for row in range(len(plan)):
            try:
                self._inputs(plan[row : row + 1])
            except ShardError as error:
                errors[row] = error
        return errors

    def _inputs(self, plan: ClipPlan) -> tuple[Inputs | None, Inputs | None]:
        video: Inputs | None = None
        audio: Inputs | None = None
        if self.has_video:
            arguments = video_arguments(
                plan,
                codec=self._codec,
                frames=self.config.clip.frames,
                widths=self.dataset.width[plan.ids],
                device=self.device,
            )
            if self._codec == "vp9":
                encoded, first = self._reader.vp9(plan)
                video = {"encoded": encoded, "first": first, **arguments}
            else:
                video = {"encoded": self._reader.jpeg(plan), **arguments}
        if self.has_audio:
            audio = {"pcm": self._reader.pcm(plan)}
        return video, audio

    def _submit(self, batch: BatchPlan, video: Inputs | None, audio: Inputs | None) -> Running:
        return (
            batch,
            None if video is None else self._video.submit(video),
            None if audio is None else self._audio.submit(audio),
        )

    def _decoded(self, batch: BatchPlan, video: Run | None, audio: Run | PendingBatch | None) -> Decoded:
        pictures: torch.Tensor | PendingBatch | None = None
        while video is not None:
            try:
                pictures = self._pictures(self._video.result(video), batch.plan)
                break
            except DecodeError as error:
                batch.replace(self._explained(batch.plan, error))
                # DALI gives nothing of a batch that fails: all of it runs again.
                batch, video, audio = self._submit(*self._io.submit(self._read, batch).result())
        return Decoded(batch, pictures, None if audio is None else self._audio.result(audio).unsqueeze(1))

    def _pictures(self, frames: Any, plan: ClipPlan) -> torch.Tensor | PendingBatch:
        clip = self.config.clip
        if self._resampler is None:
            return frames.view(len(plan), clip.frames, clip.size, clip.size, 3)
        windows = []
        for images, (top, left, height, width) in zip(frames, plan.window.tolist(), strict=True):
            if self._codec == "vp9":
                images = images[0, :, top : top + height]
            # The rows of a JPEG are the crop's already, and the columns may be: see `jpeg_window`.
            windows.append(images if images.shape[2] == width else images[:, :, left : left + width])
        short = [b for b, window in enumerate(windows) if window.shape[1:3] != tuple(plan.window[b, 2:])]
        if short:
            raise DecodeError(
                "the decoded frames are smaller than the manifest says", [b * self._samples for b in short]
            )
        return self._resampler.submit(windows, plan)

    def _batch(self, decoded: Decoded) -> Batch:
        plan, pictures = decoded.batch.plan, decoded.pictures
        if isinstance(pictures, PendingBatch):
            pictures = pictures.result()
        self.bad_samples.note(decoded.batch.bad)
        return Batch(
            video=None if pictures is None else pictures.permute(0, 4, 1, 2, 3),
            audio=decoded.audio,
            ids=torch.from_numpy(plan.ids),
            start=torch.from_numpy(plan.start),
        )

    def _explained(self, plan: ClipPlan, error: DecodeError) -> dict[int, ShardError]:
        """Which clips (by row) do not decode, and what to say of each."""
        if not error.samples:
            raise ShardError(f"DALI failed on a batch, though on none of its samples alone: {error}") from error
        errors = {}
        for place in error.samples:
            row = place // self._samples
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
