"""A small corpus of pairs, held in memory, that the product's own trainer can take batches from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from pipeline.batch import VIDEO_MEAN, VIDEO_STD, Batch
from pipeline.plan.order import global_order


@dataclass(frozen=True)
class Pairs:
    """P pairs; row n of each tensor belongs to sample n."""

    video: torch.Tensor
    """uint8 [P, T, H, W], grey."""
    audio: torch.Tensor
    """float32 [P, n_mels, F], about zero mean and unit variance."""
    classes: torch.Tensor
    """int64 [P, C]: the C attributes that both halves of a pair share."""

    def __len__(self) -> int:
        return len(self.classes)

    def batch(self, rows: np.ndarray | torch.Tensor) -> Batch:
        """The batch of these rows, as a loader would give it; its ids are the row numbers."""
        rows = torch.as_tensor(rows, dtype=torch.int64)
        mean, std = (torch.tensor(v)[None, :, None, None, None] for v in (VIDEO_MEAN, VIDEO_STD))
        video = ((self.video[rows].float() / 255)[:, None] - mean) / std
        return Batch(
            video.contiguous(memory_format=torch.channels_last_3d),
            self.audio[rows][:, None],
            rows,
            torch.zeros(len(rows), dtype=torch.float64),
        )

    def batches(self, rows: np.ndarray, size: int) -> Iterator[Batch]:
        """Whole batches of these rows, in their order; a tail that fills no batch is left out."""
        for start in range(0, len(rows) - size + 1, size):
            yield self.batch(rows[start : start + size])

    def epochs(self, *, size: int, seed: int) -> Iterator[tuple[int, Batch]]:
        """(epoch, batch) for ever, each epoch in the order that the product's loaders would take."""
        for epoch in range(2**31):
            for batch in self.batches(global_order(len(self), seed=seed, epoch=epoch), size):
                yield epoch, batch

    def combinations(self) -> torch.Tensor:
        """int64 [P]: one number for each distinct combination of the attributes."""
        return torch.unique(self.classes, dim=0, return_inverse=True)[1]


@dataclass(frozen=True)
class Corpus:
    """What a trial trains on, and what its probe is fitted and tested on. No drawing or speaker is in two of them,
    as far as `probe` and `test` go; `probe` is of the same sources as `train`."""

    train: Pairs
    probe: Pairs
    test: Pairs
