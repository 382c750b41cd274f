"""What goes wrong while training, and what the person who runs it is told."""

from __future__ import annotations

import json
from collections import deque
from pathlib import Path

import torch
from torch import nn


class TrainingError(RuntimeError):
    """A run that cannot go on; the message is for the person who started it."""


class NonFiniteGuard(nn.Module):
    """Counts steps whose gradient was not finite, without asking the GPU about it at every step.

    The counters are buffers, so they are saved with the run.

    Args:
        limit: a run stops after this many such steps in a row.
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
    def note(self, finite: torch.Tensor, *, step: int, ids: torch.Tensor) -> None:
        """`finite` (bool, 0-d) of this step, equal on all ranks, and the ids of this rank's share of the batch."""
        self.in_a_row.copy_(torch.where(finite, 0, self.in_a_row + 1))
        self.total.add_(~finite)
        self._recent.append((step, ids.tolist()))

    def check(self, run_dir: Path, *, rank: int) -> None:
        """Raises TrainingError once the limit is reached, with the ids of the last batches saved for replay."""
        if int(self.in_a_row) < self.limit:
            return
        path = run_dir / f"not_finite-rank{rank}.json"
        path.write_text(json.dumps([{"step": step, "ids": ids} for step, ids in self._recent]) + "\n")
        raise TrainingError(
            f"the gradient was not finite in {int(self.in_a_row)} steps in a row (train.max_nonfinite_steps="
            f"{self.limit}); the sample ids of these steps are in {path}. Lower optim.lr, set optim.clip_grad_norm=1 "
            "or train.precision=fp32, and look at these samples; --resume auto goes on from the last checkpoint"
        )


def flatten_buffers(buffers: list[torch.Tensor]) -> torch.Tensor:
    """A copy of all the buffers' numbers, [n]: on a GPU one kernel, where a copy of each takes one for each."""
    return torch.cat([buffer.flatten() for buffer in buffers]) if buffers else torch.empty(0)


def restore_buffers(buffers: list[torch.Tensor], numbers: torch.Tensor) -> None:
    """Gives the buffers the numbers that `flatten_buffers` took."""
    if buffers:
        parts = numbers.split([buffer.numel() for buffer in buffers])
        torch._foreach_copy_(buffers, [part.view_as(buffer) for part, buffer in zip(parts, buffers, strict=True)])


def restore_where(finite: torch.Tensor, buffers: list[torch.Tensor], before: torch.Tensor) -> None:
    """Takes the buffers back to `before` unless `finite`: one bad batch must not poison BatchNorm for good."""
    if buffers:
        restore_buffers(buffers, torch.where(finite, flatten_buffers(buffers), before))
