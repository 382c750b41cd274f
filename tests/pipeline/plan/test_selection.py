"""A selection of samples behaves as the array of its ids."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable

import numpy as np
import pytest

from pipeline.plan.selection import Selection, all_positive


def select(ids: np.ndarray, n: int) -> Selection:
    mask = np.zeros(n, dtype=bool)
    mask[ids] = True
    return Selection(n, lambda part: mask[part])


@pytest.mark.parametrize("n", [0, 1, 7, 512, 513, 2**18 + 1])
@pytest.mark.parametrize("share", [0, 0.01, 0.5, 1])
def test_a_selection_is_indexed_as_the_array_of_its_ids(n: int, share: float) -> None:
    rng = np.random.default_rng(n)
    ids = np.flatnonzero(rng.random(n) < share)
    chosen = select(ids, n)
    assert len(chosen) == len(ids)
    assert np.array_equal(np.asarray(chosen), ids)
    assert np.array_equal(chosen[:], ids)
    assert np.array_equal(chosen[3:20:2], ids[3:20:2])
    if len(ids):
        places = rng.integers(0, len(ids), 5000)
        assert np.array_equal(chosen[places], ids[places])
        assert chosen[len(ids) - 1] == ids[-1]
        assert np.array_equal(chosen.places(ids[places]), places)
    others = np.setdiff1d(np.arange(n), ids)[:100]
    assert (chosen.places(others) == -1).all()
    for wrong in (len(ids), -1):
        with pytest.raises(IndexError):
            chosen[wrong]


@pytest.mark.parametrize("n", [1, 1000, 300_000])
def test_all_samples_are_their_own_places(n: int) -> None:
    everything = Selection(n)
    assert len(everything) == n
    assert np.array_equal(everything, np.arange(n))
    assert everything[n - 1] == n - 1
    assert everything.places(np.array([n - 1])).tolist() == [n - 1]
    with pytest.raises(IndexError):
        everything[n]


def test_ids_can_be_removed() -> None:
    n = 600_000
    odd = Selection(n, lambda part: np.arange(part.start, part.stop) % 2 == 1)
    left = odd.without(np.array([0, 1, 5, 299_999, 599_999]))
    assert np.array_equal(left, np.setdiff1d(np.arange(1, n, 2), [1, 5, 299_999, 599_999]))
    assert len(Selection(n).without(np.arange(n))) == 0


@pytest.mark.parametrize("keep", [None, lambda part: np.arange(part.start, part.stop) % 3 > 0])
def test_ten_million_samples_take_a_few_megabytes(keep: Callable[[slice], np.ndarray] | None) -> None:
    tracemalloc.start()
    chosen = Selection(10_000_000, keep)
    chosen[np.arange(0, len(chosen), 40_000)]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10e6


def test_a_column_is_positive_only_if_all_its_numbers_are() -> None:
    column = np.ones(600_000, dtype=np.int32)
    assert all_positive(column)
    assert all_positive(column[:0])
    column[-1] = 0
    assert not all_positive(column)
