"""The product's loader: prepared shards through NVIDIA DALI."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import torch

from config.schema import Config
from pipeline.batch import Batch
from pipeline.clip_loader import ClipLoader, decode_threads
from pipeline.clips import ClipPlan
from pipeline.graph import audio_graph, video_arguments, video_graph
from pipeline.graph_runner import DecodeError, GraphRunner, Inputs, Run
from pipeline.manifest import Manifest
from pipeline.shard_reader import ShardError, ShardReader


class DaliLoader(ClipLoader):
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

    def _batches(self, plans: Iterator[ClipPlan]) -> Iterator[Batch]:
        depth = self.config.data.prefetch
        reading = deque(self._io.submit(self._read_next, plans) for _ in range(depth))
        running: deque[tuple[ClipPlan, Run | None, Run | None]] = deque()
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

    def _read_next(self, plans: Iterator[ClipPlan]) -> tuple[ClipPlan, Inputs | None, Inputs | None] | None:
        plan = next(plans, None)
        if plan is None:
            return None
        video = audio = None
        if self.has_video:
            if self._codec == "vp9":
                encoded, first = self._reader.vp9(plan)
                video = {"encoded": encoded, "first": first, **video_arguments(plan, frames_per_sample=1)}
            else:
                frames = self.config.clip.frames
                video = {"encoded": self._reader.jpeg(plan), **video_arguments(plan, frames_per_sample=frames)}
        if self.has_audio:
            audio = {"pcm": self._reader.pcm(plan)}
        return plan, video, audio

    def _submit(self, plan: ClipPlan, video: Inputs | None, audio: Inputs | None):
        return (
            plan,
            None if video is None else self._video.submit(video),
            None if audio is None else self._audio.submit(audio),
        )

    def _finish(self, plan: ClipPlan, video: Run | None, audio: Run | None) -> Batch:
        clip = self.config.clip
        pictures = None
        if video is not None:
            try:
                frames = self._video.result(video)
            except DecodeError as error:
                raise self._explained(plan, error) from error
            pictures = frames.view(len(plan), clip.frames, clip.size, clip.size, 3).permute(0, 4, 1, 2, 3)
        return Batch(
            video=pictures,
            audio=None if audio is None else self._audio.result(audio).unsqueeze(1),
            ids=torch.from_numpy(plan.ids),
            start=torch.from_numpy(plan.start),
        )

    def _explained(self, plan: ClipPlan, error: DecodeError) -> ShardError:
        if error.sample is None:
            return ShardError(f"DALI failed on a batch, though on none of its samples alone: {error}")
        i = int(plan.ids[error.sample if self._codec == "vp9" else error.sample // self.config.clip.frames])
        shard = self.dataset.root / self.dataset.shards[int(self.dataset.shard[i])]
        return ShardError(
            f"sample {i} ({self.dataset.source(i)}) in shard {shard} does not decode. Copy the shard again, or run "
            f"pipeline.prepare again. DALI says: {error}"
        )
