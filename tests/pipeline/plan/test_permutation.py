"""The permutation of an epoch: a bijection for every size, and as random as one that is shuffled."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from common.randomness import random_key
from pipeline.plan import permutation
from pipeline.plan.permutation import TABLE, permuted, positions_of


def key(number: int) -> int:
    return random_key(number, 0, "order")


def whole(n: int, number: int = 0) -> np.ndarray:
    return permuted(np.arange(n), n, key(number))


def deviation(counts: np.ndarray, expected: float | np.ndarray) -> float:
    """Chi-square of counts in standard deviations; its distribution is nearly normal for many cells."""
    degrees = counts.size - 1
    return float((((counts - expected) ** 2 / expected).sum() - degrees) / np.sqrt(2 * degrees))


@pytest.mark.parametrize("n", [1, 2, 3, 100, TABLE, TABLE + 1, 99_991, 1_000_000])
def test_every_number_occurs_once_and_is_found_again(n: int) -> None:
    order = whole(n)
    assert order.dtype == np.int64
    assert np.array_equal(np.sort(order), np.arange(n))
    some = np.random.default_rng(0).integers(0, n, 1000)
    assert np.array_equal(permuted(some, n, key(0)), order[some])
    assert np.array_equal(positions_of(order[some], n, key(0)), some)


@pytest.mark.parametrize("table", [TABLE, 0])
def test_every_small_size_is_a_bijection(table: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(permutation, "TABLE", table)
    for n in range(1, 101):
        order = whole(n)
        assert np.array_equal(np.sort(order), np.arange(n))
        assert np.array_equal(positions_of(order, n, key(0)), np.arange(n))


def test_positions_outside_are_refused_and_no_positions_are_none() -> None:
    for n in (10, TABLE + 1):
        for wrong in (-1, n):
            with pytest.raises(IndexError, match=rf"are not all in range\({n}\)"):
                permuted(np.array([0, wrong]), n, key(0))
            with pytest.raises(IndexError):
                positions_of(np.array([wrong]), n, key(0))
        assert permuted(np.zeros(0, dtype=np.int64), n, key(0)).tolist() == []
    assert permuted(np.zeros(0, dtype=np.int64), 0, key(0)).tolist() == []


def test_permutations_keep_their_numbers() -> None:
    assert permuted(np.arange(8), 8, key(0)).tolist() == [6, 4, 1, 3, 5, 2, 7, 0]
    assert permuted(np.arange(5), 10_000_000, key(0)).tolist() == [8071521, 463520, 6825558, 9182129, 5140894]


def test_all_permutations_of_few_numbers_are_equally_likely() -> None:
    for n, count in ((2, 2), (3, 6), (4, 24)):
        seen = [tuple(whole(n, number)) for number in range(200 * count)]
        _, counts = np.unique(seen, axis=0, return_counts=True)
        assert len(counts) == count
        assert abs(deviation(counts, 200)) < 4


@pytest.mark.parametrize("n", [5, 20, 100])
def test_a_number_is_equally_likely_at_each_position_and_beside_each_other_number(n: int) -> None:
    rounds = 60 * n
    places, pairs = np.zeros((n, n)), np.zeros((n, n))
    for number in range(rounds):
        order = whole(n, number)
        np.add.at(places, (np.arange(n), order), 1)
        np.add.at(pairs, (order[:-1], order[1:]), 1)
    assert abs(deviation(places[:-1, :-1], rounds / n)) < 4  # the last row and column follow from the others
    assert not pairs.diagonal().any()
    others = pairs[~np.eye(n, dtype=bool)]
    assert abs(deviation(others, rounds / n)) < 4


SIZES = [TABLE + 1, 99_991, 2**20]
"""Just above the table, a prime, and a square, on whose rectangle nothing is permuted twice."""


@pytest.mark.parametrize("n", SIZES)
def test_many_numbers_are_uniform_over_positions(n: int) -> None:
    for number in range(3):
        order = whole(n, number)
        cells, _, _ = np.histogram2d(np.arange(n), order, bins=50, range=[[0, n], [0, n]])
        assert abs(deviation(cells, n / 2500)) < 4.5
        # The first and the last numbers in detail: a batch is a short stretch.
        for part in (order[:4096], order[-4096:]):
            assert abs(deviation(np.histogram(part, 64, (0, n))[0], 64)) < 4.5


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("distance", [1, 2, 16, 256])
def test_numbers_near_one_another_are_independent(n: int, distance: int) -> None:
    order = whole(n, 1)
    a, b = order[:-distance], order[distance:]
    cells, _, _ = np.histogram2d(a, b, bins=40, range=[[0, n], [0, n]])
    assert abs(deviation(cells, len(a) / 1600)) < 4.5
    # The differences modulo n are uniform, also in their last bits.
    step = (b - a) % n
    assert abs(deviation(np.histogram(step, 100, (0, n))[0], len(a) / 100)) < 4.5
    assert abs(deviation(np.bincount(a % 2 * 2 + b % 2, minlength=4), len(a) / 4)) < 4.5


@pytest.mark.parametrize("n", SIZES)
def test_fixed_points_ascents_and_cycles_are_as_many_as_by_chance(n: int) -> None:
    fixed, next_to, cycles = [], [], []
    for number in range(12):
        order = whole(n, number)
        fixed.append((order == np.arange(n)).sum())
        next_to.append((np.diff(order) == 1).sum())
        assert abs((np.diff(order) > 0).mean() - 0.5) < 5 * np.sqrt(1 / 12 / n)
        if number < 3 and n < 10**6:
            cycles.append(count_cycles(order))
    # Both are Poisson with mean 1; cycles are about log n of them, with a variance as large.
    assert 2 <= sum(fixed) <= 28
    assert 2 <= sum(next_to) <= 28
    assert not cycles or abs(np.mean(cycles) - np.log(n) - 0.58) < 4 * np.sqrt(np.log(n) / 3)


def count_cycles(order: np.ndarray) -> int:
    left, count = order.tolist(), 0
    for first in range(len(left)):
        place = first
        count += left[place] >= 0
        while left[place] >= 0:
            left[place], place = -1, left[place]
    return count


@pytest.mark.parametrize("n", SIZES)
def test_permutations_with_different_keys_are_unrelated(n: int) -> None:
    keys = [random_key(0, 0, "order"), random_key(0, 1, "order"), random_key(1, 0, "order"), random_key(0, 0, "pool")]
    orders = [permuted(np.arange(n), n, one) for one in keys] + [np.arange(n)]
    for i, one in enumerate(orders):
        for other in orders[:i]:
            assert abs(np.corrcoef(one, other)[0, 1]) < 5 / np.sqrt(n)
            assert (one == other).sum() < 12


def test_a_part_of_a_billion_numbers_takes_no_memory() -> None:
    tracemalloc.start()
    part = permuted(np.arange(5 * 10**8, 5 * 10**8 + 256), 10**9, key(0))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(np.unique(part)) == 256
    assert peak < 200_000
