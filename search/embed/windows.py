"""Which rows the samples of a data set get: one per sample, or one per window of a fixed length."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Rows(NamedTuple):
    """Consecutive rows of the embeddings of a data set; entry r of each array describes row r."""

    number: int
    """Number of the part that these rows make, from 0."""
    ids: np.ndarray
    """int64 [R], the sample of each row."""
    begin: np.ndarray
    """float64 [R], start of the row's window, in seconds from the sample's start."""
    end: np.ndarray
    """float64 [R], end of the window."""


class Windows:
    """All rows of a data set, in order; they are computed when they are asked for.

    A sample of L seconds has windows of `every` seconds from its start on. A rest of at least half a window at its end
    is a window too, a shorter one belongs to the window before it. A sample shorter than `every` has one window.

    Args:
        seconds: float64 [n], lengths of the samples.
        every: length of a window in seconds; 0 for one row per sample.
    """

    def __init__(self, seconds: np.ndarray, *, every: float) -> None:
        self._seconds, self._every = seconds, every
        counts = np.ones(len(seconds), dtype=np.int64)
        if every:
            counts = np.maximum(1, np.floor(seconds / every + 0.5)).astype(np.int64)
        self._first = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)])

    def __len__(self) -> int:
        return int(self._first[-1])

    def part(self, number: int, *, size: int) -> Rows:
        """The rows number * size to (number + 1) * size - 1, or to the last one."""
        rows = np.arange(number * size, min((number + 1) * size, len(self)))
        ids = np.searchsorted(self._first, rows, side="right") - 1
        window = rows - self._first[ids]
        is_last = rows + 1 == self._first[ids + 1]
        begin = window * self._every
        end = np.where(is_last, self._seconds[ids], (window + 1) * self._every)
        return Rows(number, ids, begin.astype(np.float64), end.astype(np.float64))
