"""A small in-memory corpus of video-audio pairs with batches for the product's own training step."""

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
    """Grey video, uint8 [P, T, H, W]."""
    audio: torch.Tensor
    """Spectrograms, float32 [P, n_mels, F], with about zero mean and unit variance."""
    classes: torch.Tensor
    """Values of the C attributes that both halves of a pair share, int64 [P, C]."""

    def __len__(self) -> int:
        return len(self.classes)

    def batch(self, rows: np.ndarray | torch.Tensor) -> Batch:
        """The batch of these rows in a loader's format; ids are row numbers."""
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
        """Full batches of these rows, in order; an incomplete last batch is dropped."""
        for start in range(0, len(rows) - size + 1, size):
            yield self.batch(rows[start : start + size])

    def epochs(self, *, size: int, seed: int) -> Iterator[tuple[int, Batch]]:
        """Yields (epoch, batch) forever, each epoch in the order of the product's loaders."""
        for epoch in range(2**31):
            for batch in self.batches(global_order(len(self), seed=seed, epoch=epoch), size):
                yield epoch, batch

    def combinations(self) -> torch.Tensor:
        """A number for each distinct combination of the attributes, int64 [P]."""
        return torch.unique(self.classes, dim=0, return_inverse=True)[1]


@dataclass(frozen=True)
class Corpus:
    """The training pairs of a trial, and the pairs that its probe is fitted to and tested on.

    `probe` uses the same drawings and speakers as `train`; `test` uses others.
    """

    train: Pairs
    probe: Pairs
    test: Pairs
