"""The product's loader: prepared shards through NVIDIA DALI."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import torch

from config import Config
from pipeline.batch import Batch
from pipeline.batch_plan import BatchPlan
from pipeline.clip_loader import ClipLoader, decode_threads
from pipeline.clips import ClipPlan
from pipeline.graph import audio_graph, video_arguments, video_graph
from pipeline.graph_runner import DecodeError, GraphRunner, Inputs, Run
from pipeline.manifest import Manifest
from pipeline.shard_reader import ShardError, ShardReader


class DaliLoader(ClipLoader[Manifest]):
    """Three stages side by side: a thread plans and reads, DALI's threads decode, the caller computes.

    Up to data.prefetch batches wait in each of the first two. See `make_loader` for what it yields.

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
        shape = {"device": self.device, "threads": decode_threads(config.data.threads), "batch": self.batch_size}
        sides = np.minimum(dataset.width, dataset.height)
        build_video = partial(
            video_graph,
            config=config,
            codec=self._codec,
            stride=self.planner.stride,
            shortest_side=int(sides[sides > 0].min(initial=np.iinfo(np.int32).max)),
            **shape,
        )
        self._video = GraphRunner(build_video, depth=config.data.prefetch)
        self._audio = GraphRunner(partial(audio_graph, config=config, **shape), depth=config.data.prefetch)
        # One thread: the shard reader's table of open files is not shared, and reads of a batch overlap in the kernel.
        self._io = ThreadPoolExecutor(max_workers=1, thread_name_prefix="shard-reader")

    def _batches(self, plans: Iterator[BatchPlan]) -> Iterator[Batch]:
        depth = self.config.data.prefetch
        reading = deque(self._io.submit(self._read_next, plans) for _ in range(depth))
        running: deque[tuple[BatchPlan, Run | None, Run | None]] = deque()
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
                yield self._finish(*running.popleft())
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
                if not batch.may_change:
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
            if self._codec == "vp9":
                encoded, first = self._reader.vp9(plan)
                video = {"encoded": encoded, "first": first, **video_arguments(plan, frames_per_sample=1)}
            else:
                frames = self.config.clip.frames
                video = {"encoded": self._reader.jpeg(plan), **video_arguments(plan, frames_per_sample=frames)}
        if self.has_audio:
            audio = {"pcm": self._reader.pcm(plan)}
        return video, audio

    def _submit(
        self, batch: BatchPlan, video: Inputs | None, audio: Inputs | None
    ) -> tuple[BatchPlan, Run | None, Run | None]:
        return (
            batch,
            None if video is None else self._video.submit(video),
            None if audio is None else self._audio.submit(audio),
        )

    def _finish(self, batch: BatchPlan, video: Run | None, audio: Run | None) -> Batch:
        clip = self.config.clip
        pictures = None
        while video is not None:
            try:
                frames = self._video.result(video)
            except DecodeError as error:
                batch.replace(self._explained(batch.plan, error))
                # DALI gives nothing of a batch that fails: all of it runs again.
                batch, video, audio = self._submit(*self._io.submit(self._read, batch).result())
            else:
                pictures = frames.view(len(batch.plan), clip.frames, clip.size, clip.size, 3).permute(0, 4, 1, 2, 3)
                break
        self.bad_samples.note(batch.bad)
        return Batch(
            video=pictures,
            audio=None if audio is None else self._audio.result(audio).unsqueeze(1),
            ids=torch.from_numpy(batch.plan.ids),
            start=torch.from_numpy(batch.plan.start),
        )

    def _explained(self, plan: ClipPlan, error: DecodeError) -> dict[int, ShardError]:
        """Which clips (by row) do not decode, and what to say of each."""
        if not error.samples:
            raise ShardError(f"DALI failed on a batch, though on none of its samples alone: {error}") from error
        errors = {}
        for place in error.samples:
            row = place if self._codec == "vp9" else place // self.config.clip.frames
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
