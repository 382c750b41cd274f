"""The samples that a run trains on, as one bit per sample of the data set."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import overload

import numpy as np

_BLOCK = 512
"""Number of samples whose bits are counted together: 64 bytes, a line of a CPU's cache."""
_TOGETHER = 2**18
"""Number of samples that are processed at a time, so that no array has a row per sample; a multiple of `_BLOCK`."""
_PLACES = 2**12
"""Number of places that are looked up at a time."""


class Selection:
    """A subset of range(n), in ascending order; place i holds the i-th of its ids.

    Indexing it by an int, a slice or an int array of places gives ids, as if it were the int64 array of them. It takes
    n / 8 bytes and one number per 512 samples, or no memory if all of range(n) is selected.

    Args:
        n: number of samples of the data set.
        keep: returns which samples of a slice of range(n) are selected, bool [length of the slice]; None selects all.
    """

    def __init__(self, n: int, keep: Callable[[slice], np.ndarray] | None = None) -> None:
        self.n, self._bits = n, None
        self._starts = np.array([0, n])
        if keep is not None:
            self._bits = np.zeros((-(-n // _BLOCK), _BLOCK // 8), dtype=np.uint8)
            flat = self._bits.reshape(-1)
            for part in parts(n):
                packed = np.packbits(keep(part))
                flat[part.start // 8 : part.start // 8 + len(packed)] = packed
            counts = np.bitwise_count(self._bits).sum(axis=1, dtype=np.int64)
            self._starts = np.concatenate([[0], np.cumsum(counts)])

    def without(self, ids: np.ndarray) -> Selection:
        """Returns this selection without `ids`, int [m], in ascending order."""

        def keep(part: slice) -> np.ndarray:
            mask = self._mask(part)
            first, last = np.searchsorted(ids, [part.start, part.stop])
            mask[ids[first:last] - part.start] = False
            return mask

        return Selection(self.n, keep)

    def __len__(self) -> int:
        return int(self._starts[-1])

    @overload
    def __getitem__(self, places: int) -> int: ...
    @overload
    def __getitem__(self, places: slice | np.ndarray) -> np.ndarray: ...
    def __getitem__(self, places: int | slice | np.ndarray) -> int | np.ndarray:
        """Returns the ids at `places`; raises IndexError unless each is in range(len(self))."""
        if isinstance(places, int | np.integer):
            return int(self[np.array([places])][0])
        if isinstance(places, slice):
            places = np.arange(*places.indices(len(self)))
        places = np.asarray(places, dtype=np.int64)
        if len(places) and not 0 <= places.min() <= places.max() < len(self):
            raise IndexError(f"places {places.min()} to {places.max()} in a selection of {len(self)} samples")
        if self._bits is None:
            return places
        ids = np.empty(len(places), dtype=np.int64)
        for first in range(0, len(places), _PLACES):
            part = places[first : first + _PLACES]
            block = np.searchsorted(self._starts, part, side="right") - 1
            byte, rank = _first_above(np.bitwise_count(self._bits[block]), part - self._starts[block])
            bit, _ = _first_above(np.unpackbits(self._bits[block, byte][:, None], axis=1), rank)
            ids[first : first + _PLACES] = block * _BLOCK + byte * 8 + bit
        return ids

    def places(self, ids: np.ndarray) -> np.ndarray:
        """Returns the place of each of `ids`, int [m] in range(n), as int64; -1 for those that are not selected."""
        ids = np.asarray(ids, dtype=np.int64)
        if self._bits is None:
            return ids
        block, within = np.divmod(ids, _BLOCK)
        bits = np.unpackbits(self._bits[block], axis=1)
        before = np.where(np.arange(_BLOCK) < within[:, None], bits, 0).sum(axis=1)
        return np.where(bits[np.arange(len(ids)), within] == 1, self._starts[block] + before, -1)

    def blocks(self) -> Iterator[np.ndarray]:
        """Yields the ids in ascending order, as int64 arrays of moderate size."""
        for part in parts(self.n):
            yield np.flatnonzero(self._mask(part)) + part.start

    def _mask(self, part: slice) -> np.ndarray:
        """Which samples of one of the `parts` are selected, bool."""
        if self._bits is None:
            return np.ones(part.stop - part.start, dtype=bool)
        bits = np.unpackbits(self._bits[part.start // _BLOCK : -(-part.stop // _BLOCK)].reshape(-1))
        return bits[: part.stop - part.start].view(bool)

    def __array__(self, dtype: type | None = None, copy: bool | None = None) -> np.ndarray:
        ids = np.concatenate([np.zeros(0, dtype=np.int64), *self.blocks()])
        return ids if dtype is None else ids.astype(dtype)


def _first_above(counts: np.ndarray, rank: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Finds the column that holds a given item of each row, and the item's rank within the column.

    Args:
        counts: [m, k], how many items each column holds, in each row.
        rank: [m], which item of the row is looked for, counted from 0 over the columns.
    """
    ends = np.cumsum(counts, axis=1, dtype=np.int64)
    place = np.argmax(ends > rank[:, None], axis=1)
    rows = np.arange(len(rank))
    return place, rank - ends[rows, place] + counts[rows, place]


def all_positive(column: np.ndarray) -> bool:
    """Whether all of a column's numbers are positive; reads only a part of the column at a time."""
    return all(bool((column[part] > 0).all()) for part in parts(len(column)))


def parts(n: int) -> Iterator[slice]:
    """Divides range(n) into slices of `_TOGETHER` numbers, the last of which may be shorter."""
    return (slice(first, min(first + _TOGETHER, n)) for first in range(0, n, _TOGETHER))
