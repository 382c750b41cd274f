"""A small in-memory corpus of video-audio pairs with batches for the product's own training step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch

from pipeline.batch import VIDEO_MEAN, VIDEO_STD, Batch
from pipeline.plan.order import global_order

Part = Literal["all", "tuning", "test"]
"""Which sources the test pairs of a corpus are from. Those of tuning and test have no speaker, no picture and no
drawing in common; all: both, as in the experiments that were made before the two were separated."""


@dataclass(frozen=True)
class Pairs:
    """P pairs; row n of each tensor belongs to sample n."""

    video: torch.Tensor
    """Grey video, uint8 [P, T, H, W]."""
    audio: torch.Tensor
    """Spectrograms, float32 [P, n_mels, F], with about zero mean and unit variance."""
    classes: torch.Tensor
    """Values of the C attributes that both halves of a pair share, int64 [P, C]."""
    contents: torch.Tensor | None = None
    """What each pair shows, int64 [P]: two pairs with the same content are false negatives of each other. None: the
    combination of all attributes."""

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
        """A number for each distinct content, int64 [P]."""
        if self.contents is not None:
            return self.contents
        return torch.unique(self.classes, dim=0, return_inverse=True)[1]


@dataclass(frozen=True)
class Corpus:
    """The training pairs of a trial, and the pairs that its probe is fitted to and tested on.

    `probe` uses the same drawings and speakers as `train`; `test` uses others.
    """

    train: Pairs
    probe: Pairs
    test: Pairs
    other_tests: Mapping[str, Pairs] = field(default_factory=dict)
    """Name -> further test pairs, on which the figures of `test` are measured as well."""


def move(
    pictures: np.ndarray, rng: np.random.Generator, *, canvas: int, frames: int, background: int = 0
) -> np.ndarray:
    """Videos, uint8 [n, frames, canvas, canvas], of each picture on a straight line between two random positions.

    Args:
        pictures: uint8 [n, S, S] with S <= canvas.
    """
    side = pictures.shape[1]
    ends = rng.integers(canvas - side + 1, size=(2, len(pictures), 2))
    video = np.full((len(pictures), frames, canvas, canvas), background, dtype=np.uint8)
    for frame in range(frames):
        share = frame / (frames - 1)
        places = np.rint((1 - share) * ends[0] + share * ends[1]).astype(int)
        for row, (top, left) in enumerate(places):
            video[row, frame, top : top + side, left : left + side] = pictures[row]
    return video
