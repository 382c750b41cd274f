"""Turns cropped frames into normalised clips on a CPU: resize, flip, colour.

On a GPU, DALI operators do this at the end of the video graph. On a CPU, torch resizes uint8 images in a fraction of
DALI's time (docs/performance.md), so the graph ends with the decoded frames. The results agree to a few of 255 levels,
except in a crop's outermost pixels, where DALI's filter reads pixels outside the crop.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch.nn.functional import interpolate

from pipeline.load.cpu_threads import TASKS_PER_THREAD, PendingBatch, SingleThreadTorchPool
from pipeline.plan.clips import ClipPlan, color_maps

_PIXELS_PER_ROW = 8
"""Pixels per row of the matrix product that maps colours. Of 1, 2, 4, 8 and 16 this is the fastest: 0.6 ms for
16 x 112 x 112 pixels on one core, against 2.4 ms with 1."""

_VALUES_PER_TASK = 2**20
"""Largest number of output values per task, so that they stay in a core's cache between resize and colour."""


class Resampler:
    """Turns cropped frames into clips of size x size pixels, with antialiasing.

    Args:
        size: output height and width, in pixels.
        threads: the pool that runs the work.
    """

    def __init__(self, *, size: int, threads: SingleThreadTorchPool) -> None:
        self._size = size
        self._threads = threads

    def submit(self, windows: Sequence[np.ndarray], plan: ClipPlan) -> PendingBatch:
        """Submits a batch and returns immediately; the result is float32 [B, T, size, size, 3].

        Args:
            windows: cropped frames of each clip, uint8 [T, h, w, 3]; h and w differ between clips.
            plan: flip and color are read.
        """
        frames = len(windows[0])
        clips = torch.empty(len(windows), frames, self._size, self._size, 3)
        matrix, offset = _maps_of_rows(plan, pixels=math.gcd(_PIXELS_PER_ROW, frames * self._size**2))
        fit_in_cache = max(1, _VALUES_PER_TASK // clips[0].numel())
        clips_per_task = min(fit_in_cache, math.ceil(len(clips) / (TASKS_PER_THREAD * self._threads.count)))
        parts = (slice(first, first + clips_per_task) for first in range(0, len(clips), clips_per_task))
        tasks = [
            self._threads.submit(
                self._resample, windows[part], plan.flip[part].tolist(), matrix[part], offset[part], clips[part]
            )
            for part in parts
        ]
        return PendingBatch(clips, tasks)

    def _resample(
        self,
        windows: Sequence[np.ndarray],
        flips: Sequence[bool],
        matrix: torch.Tensor,
        offset: torch.Tensor,
        out: torch.Tensor,
    ) -> None:
        # Make few calls into torch and NumPy: after each, this thread has to reacquire the GIL, and the training step
        # has to wait for it.
        resized = []
        for window, flip in zip(windows, flips, strict=True):
            # torch has a vectorised kernel for uint8 images with three channels in channels-last layout.
            clip = torch.from_numpy(window).permute(0, 3, 1, 2)
            clip = interpolate(clip, size=(self._size, self._size), mode="bilinear", antialias=True)
            resized.append((clip.flip(-1) if flip else clip).permute(0, 2, 3, 1))
        rows = (len(out), -1, matrix.shape[-1])
        pixels = torch.stack(resized, out=torch.empty_like(out))
        torch.baddbmm(offset, pixels.view(rows), matrix, out=out.view(rows))


def _maps_of_rows(plan: ClipPlan, *, pixels: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Colour maps for rows of `pixels` pixels: matrix [B, 3 * pixels, 3 * pixels] and offset [B, 1, 3 * pixels].

    The matrix is block-diagonal, because products with 3 x 3 matrices are slow.
    """
    matrix, offset = color_maps(plan)
    blocks = np.zeros((len(matrix), pixels, 3, pixels, 3), dtype=np.float32)
    pixel = np.arange(pixels)
    blocks[:, pixel, :, pixel] = matrix.transpose(0, 2, 1)
    rows = np.tile(offset, pixels)[:, None]
    return torch.from_numpy(blocks.reshape(-1, 3 * pixels, 3 * pixels)), torch.from_numpy(rows)
