"""Non-finite gradients: counting them, undoing their effect on BatchNorm, and ending the run."""

from __future__ import annotations

import json
from collections import deque
from pathlib import Path

import torch
from torch import nn


class TrainingError(RuntimeError):
    """Raised when a run cannot continue; the message is for the user."""


class NonFiniteGuard(nn.Module):
    """Counts steps whose gradient was not finite, without making the host wait for the GPU at every step.

    The counters are buffers, so they are saved with the run.

    Args:
        limit: the run stops after this many such steps in a row.
    """

    in_a_row: torch.Tensor
    total: torch.Tensor

    def __init__(self, *, limit: int) -> None:
        super().__init__()
        self.limit = limit
        self.register_buffer("in_a_row", torch.zeros((), dtype=torch.int64))
        self.register_buffer("total", torch.zeros((), dtype=torch.int64))
        self._recent: deque[tuple[int, list[int]]] = deque(maxlen=limit)

    @torch.no_grad()
    def record(self, finite: torch.Tensor, *, step: int, ids: torch.Tensor) -> None:
        """Counts a step.

        Args:
            step: number of the step, from 1.
            finite: bool, 0-d, equal on all ranks: whether the step's gradient was finite.
            ids: int64 [m], sample ids of this rank's share of the batch.
        """
        self.in_a_row.copy_(torch.where(finite, 0, self.in_a_row + 1))
        self.total.add_(~finite)
        self._recent.append((step, ids.tolist()))

    def check(self, run_dir: Path, *, rank: int) -> None:
        """Raises TrainingError when the limit is reached; also writes the ids of the last batches to `run_dir`."""
        if int(self.in_a_row) < self.limit:
            return
        path = run_dir / f"not_finite-rank{rank}.json"
        where = f"the sample ids of these steps are in {path}"
        try:
            path.write_text(json.dumps([{"step": step, "ids": ids} for step, ids in self._recent]) + "\n")
        except OSError as error:  # such as a full disk, which must not hide why the run ends
            where = f"the sample ids of these steps could not be written to {path} ({error.strerror or error})"
        raise TrainingError(
            f"the gradient was not finite in {int(self.in_a_row)} steps in a row (train.max_nonfinite_steps="
            f"{self.limit}); {where}. Lower optim.lr, set optim.clip_grad_norm=1 "
            "or train.precision=fp32, and look at these samples; --resume auto resumes from the last checkpoint"
        )


def flatten_buffers(buffers: list[torch.Tensor]) -> torch.Tensor:
    """Copies all buffers into one tensor, [n]; on a GPU this is one kernel rather than one per buffer."""
    return torch.cat([buffer.flatten() for buffer in buffers]) if buffers else torch.empty(0)


def restore_buffers(buffers: list[torch.Tensor], flat: torch.Tensor) -> None:
    """Restores the buffers from the tensor that `flatten_buffers` returned."""
    if buffers:
        parts = flat.split([buffer.numel() for buffer in buffers])
        sources = [part.view_as(buffer) for part, buffer in zip(parts, buffers, strict=True)]
        torch._foreach_copy_(buffers, sources)  # torch-private: one kernel for all buffers


def restore_where(finite: torch.Tensor, buffers: list[torch.Tensor], before: torch.Tensor) -> None:
    """Restores the buffers to `before` unless `finite`, so that a bad batch does not spoil BatchNorm's statistics."""
    if buffers:
        restore_buffers(buffers, torch.where(finite, flatten_buffers(buffers), before))
