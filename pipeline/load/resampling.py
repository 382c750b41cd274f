"""Decoded frames to normalised clips on the CPU: crop, resize, flip, colour.

On a GPU DALI's operators do this at the end of the video graph. On a CPU torch's resize of bytes takes a small part of
the time of DALI's (docs/performance.md), so there the graph ends with the decoded frames. The two agree to a few levels
of 255, except for a crop's outermost pixels, where DALI's filter reaches beyond the crop.
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
"""Pixels that one row of the colour product holds: the fastest of 1, 2, 4, 8 and 16 (for 16 x 112 x 112 pixels on one
core 0.6 ms, against 2.4 ms with 1)."""

_VALUES_PER_TASK = 2**20
"""Largest number of values in a task's clips, which are to stay in a core's cache between resizing and colour."""


class Resampler:
    """Turns cropped frames into clips of size x size pixels, with antialiasing.

    Args:
        size: H = W of the clips, in pixels.
        threads: the pool that runs the work.
    """

    def __init__(self, *, size: int, threads: SingleThreadTorchPool) -> None:
        self._size = size
        self._threads = threads

    def submit(self, windows: Sequence[np.ndarray], plan: ClipPlan) -> PendingBatch:
        """Submits a batch and returns immediately; the result is float32 [B, T, size, size, 3].

        Args:
            windows: the T frames of each clip, uint8 [T, h, w, 3], already cropped; h and w differ between clips.
            plan: the clips; flip and color are read.
        """
        frames = len(windows[0])
        clips = torch.empty(len(windows), frames, self._size, self._size, 3)
        matrix, offset = _maps_of_rows(plan, pixels=math.gcd(_PIXELS_PER_ROW, frames * self._size**2))
        most = max(1, _VALUES_PER_TASK // clips[0].numel())
        each = min(most, math.ceil(len(clips) / (TASKS_PER_THREAD * self._threads.count)))
        parts = (slice(first, first + each) for first in range(0, len(clips), each))
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
        # Few calls into torch and NumPy: each releases the interpreter's lock and must get it back from the training
        # step, which then waits for it in turn.
        resized = []
        for window, flip in zip(windows, flips, strict=True):
            # Bytes of three channels, channels last: what torch has a vectorised kernel for.
            clip = torch.from_numpy(window).permute(0, 3, 1, 2)
            clip = interpolate(clip, size=(self._size, self._size), mode="bilinear", antialias=True)
            resized.append((clip.flip(-1) if flip else clip).permute(0, 2, 3, 1))
        rows = (len(out), -1, matrix.shape[-1])
        pixels = torch.stack(resized, out=torch.empty_like(out))
        torch.baddbmm(offset, pixels.view(rows), matrix, out=out.view(rows))


def _maps_of_rows(plan: ClipPlan, *, pixels: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The colour maps for rows of several pixels, [B, 3 * pixels, 3 * pixels] and [B, 1, 3 * pixels].

    Products with matrices of three rows are slow.
    """
    matrix, offset = color_maps(plan)
    blocks = np.zeros((len(matrix), pixels, 3, pixels, 3), dtype=np.float32)
    each = np.arange(pixels)
    blocks[:, each, :, each] = matrix.transpose(0, 2, 1)
    rows = np.tile(offset, pixels)[:, None]
    return torch.from_numpy(blocks.reshape(-1, 3 * pixels, 3 * pixels)), torch.from_numpy(rows)
