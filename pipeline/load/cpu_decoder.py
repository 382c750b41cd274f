"""Decoding for a CPU: DALI decodes; torch resizes, flips, colours and computes spectrograms.

torch needs only a fraction of the time of DALI's CPU operators for this work (docs/performance.md).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial

import numpy as np
import torch
from nvidia.dali import Pipeline

from common.cpu_priority import use_idle_priority
from pipeline.batch import Batch
from pipeline.load.clip_loader import decode_threads
from pipeline.load.cpu_threads import PendingBatch, SingleThreadTorchPool
from pipeline.load.dali_graph import decoding_pipeline
from pipeline.load.dali_runner import DecodeError, GraphRun, GraphRunner, as_arrays
from pipeline.load.decoder import InFlight, StoredFrames
from pipeline.load.log_mel import LogMelRunner
from pipeline.load.resampling import Resampler
from pipeline.plan.clips import ClipPlan
from pipeline.shards.codecs import CODECS
from settings import Config

Frames = list[np.ndarray]
"""One array per clip: decoded frames, uint8 [T, h, w, 3]."""
Started = tuple["GraphRun[Frames] | None", "PendingBatch | None"]
"""The pending video of a batch in DALI's graph, and its pending spectrograms in the pool; None without the stream."""


class CpuDecoder:
    """A `Decoder` whose driver thread submits bytes to DALI, and DALI's frames to a pool of torch threads.

    DALI and the pool each hold up to data.prefetch batches.

    Args:
        config: data, clip and audio are read.
        dataset: the prepared data set.
        stride: stored frames from one frame of a clip to the next.
        batch: largest number of clips in a batch.
    """

    def __init__(self, *, config: Config, dataset: StoredFrames, stride: int, batch: int) -> None:
        self._config, self._dataset, self._stride, self._batch = config, dataset, stride, batch
        self._codec = CODECS[dataset.storage.codec]
        self._threads = decode_threads(config.data.threads)
        self._samples = self._codec.samples_per_clip(config.clip.frames)
        self.depth = 2 * config.data.prefetch
        idle = config.data.idle_priority
        pool = SingleThreadTorchPool(self._threads, idle=idle)
        self._resampler = Resampler(size=config.clip.size, threads=pool)
        self._log_mel = LogMelRunner(audio=config.audio, threads=pool)
        convert = partial(as_arrays, samples=self._samples)
        self._graph: GraphRunner[Frames] = GraphRunner(self._video_graph, depth=config.data.prefetch, convert=convert)
        self._driver = ThreadPoolExecutor(1, "decoder", use_idle_priority if idle else None)
        self._started: deque[tuple[InFlight, Future[Started]]] = deque()

    def submit(self, item: InFlight) -> None:
        self._started.append((item, self._driver.submit(self._start, item)))
        if len(self._started) >= self._config.data.prefetch:
            self._finish_oldest()

    def result(self, item: InFlight) -> Batch:
        while item.handle is None:
            self._finish_oldest()
        frames, mel = item.handle.result()
        return Batch.of_plan(
            item.plan.plan,
            video=None if frames is None else frames.result().permute(0, 4, 1, 2, 3),
            audio=None if mel is None else mel.result().unsqueeze(1),
        )

    def _finish_oldest(self) -> None:
        item, started = self._started.popleft()
        item.handle = self._driver.submit(self._finish, item.plan.plan, started)

    def _start(self, item: InFlight) -> Started:
        plan, run, mel = item.plan.plan, None, None
        if item.video is not None:
            window = self._decoded_window(plan)
            run = self._graph.submit(item.video | self._codec.cpu_arguments(window, frames=self._config.clip.frames))
        if item.pcm is not None:
            mel = self._log_mel.submit({"pcm": item.pcm})
        item.video = item.pcm = None
        return run, mel

    def _finish(self, plan: ClipPlan, started: Future[Started]) -> tuple[PendingBatch | None, PendingBatch | None]:
        run, mel = started.result()  # does not block: the driver thread runs its tasks in order
        if run is None:
            return None, mel
        return self._resampler.submit(self._cropped(self._graph.result(run), plan), plan), mel

    def _decoded_window(self, plan: ClipPlan) -> np.ndarray:
        widths, heights = self._dataset.width[plan.ids], self._dataset.height[plan.ids]
        return self._codec.cpu_window(plan, widths=widths, heights=heights)

    def _cropped(self, frames: Sequence[np.ndarray], plan: ClipPlan) -> Frames:
        """Cuts each clip's crop, uint8 [T, height, width, 3], out of the decoded part of its frames."""
        windows = []
        corners = (plan.window - self._decoded_window(plan))[:, :2]
        for images, (top, left), (height, width) in zip(
            frames, corners.tolist(), plan.window[:, 2:].tolist(), strict=True
        ):
            images = images.reshape(-1, *images.shape[-3:])
            windows.append(images[:, top : top + height, left : left + width])
        short = [b for b, window in enumerate(windows) if window.shape[1:3] != tuple(plan.window[b, 2:])]
        if short:
            raise DecodeError(
                "the decoded frames are smaller than the manifest says", [b * self._samples for b in short]
            )
        return windows

    def _video_graph(self) -> Pipeline:
        device = torch.device("cpu")
        pipe = decoding_pipeline(
            config=self._config, codec=self._codec, device=device, threads=self._threads, batch=self._batch
        )
        with pipe:
            pipe.set_outputs(self._codec.decode(device="cpu", frames=self._config.clip.frames, stride=self._stride))
        return pipe
