"""The order of samples: a deterministic permutation, the same for every world size."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

from pipeline.plan.mismatched_pairs import derangement
from pipeline.plan.order import ShardOrder, global_order, rank_slice, steps_per_epoch
from pipeline.plan.selection import Selection
from settings.errors import ConfigError


def shards_of(samples: int, per_shard: int) -> np.ndarray:
    return np.arange(samples) // per_shard


def shard_order(shards: np.ndarray, *, window: int, **part: int) -> np.ndarray:
    return ShardOrder(Selection(len(shards)), shards, window=window).part(**part)


@pytest.mark.parametrize("order", ["global", "shards"])
def test_an_epoch_visits_each_sample_once_and_is_reproducible(order: str) -> None:
    def draw(**kwargs: int) -> np.ndarray:
        if order == "global":
            return global_order(1000, **kwargs)
        return shard_order(shards_of(1000, 64), window=100, **kwargs)

    first = draw(seed=3, epoch=5)
    assert np.array_equal(np.sort(first), np.arange(1000))
    assert np.array_equal(first, draw(seed=3, epoch=5))
    for other in (draw(seed=3, epoch=6), draw(seed=4, epoch=5)):
        assert np.mean(first == other) < 0.02


def test_shard_order_reads_few_shards_at_a_time() -> None:
    shards = shards_of(10_000, 100)
    visited = shards[shard_order(shards, window=200, seed=0, epoch=0)]
    open_at_once = [len(np.unique(visited[i : i + 100])) for i in range(0, 10_000, 100)]
    assert max(open_at_once) <= 6
    assert len(np.unique(shards[global_order(10_000, seed=0, epoch=0)][:100])) > 50


def test_shard_order_shuffles_the_shards_and_the_samples_within_them() -> None:
    shards = shards_of(1000, 100)
    order = shard_order(shards, window=100, seed=0, epoch=0)
    assert np.any(np.diff(order) < 0)
    assert all(np.any(np.diff(order[shards[order] == shard]) < 0) for shard in range(10))
    shard_of_every_100th = [shards[i] for i in order[:: len(order) // 10]]
    assert shard_of_every_100th != sorted(shard_of_every_100th)
    # With a window of 1, samples keep their order within each shard.
    in_shards = shard_order(shards, window=1, seed=0, epoch=0).reshape(10, 100)
    assert all(np.array_equal(np.sort(block), block) for block in in_shards)


@pytest.mark.parametrize("n", [6, 70_000])
def test_any_part_of_an_order_equals_that_part_of_all_of_it(n: int) -> None:
    mixed = np.random.default_rng(0).integers(0, n // 3, n)
    orders = [partial(global_order, n)]
    orders += [ShardOrder(Selection(n), shards, window=50).part for shards in (shards_of(n, 3), mixed)]
    for order in orders:
        whole = order(seed=1, epoch=2)
        assert np.array_equal(np.sort(whole), np.arange(n))
        for first, last in ((0, 1), (2, 5), (n // 2, n // 2 + 60), (n - 1, n), (n - 2, n + 9), (n, n), (n + 5, n + 6)):
            assert np.array_equal(order(seed=1, epoch=2, first=first, last=last), whole[first:last])


def test_shard_order_is_that_of_the_selected_samples() -> None:
    shards = np.repeat(np.arange(10), 30)
    some = Selection(300, lambda part: np.arange(300) % 3 == 0)
    order = ShardOrder(some, shards, window=1).part(seed=0, epoch=0)
    assert np.array_equal(np.sort(order), np.arange(100))
    visited = shards[some[order]]
    assert (np.diff(visited) != 0).sum() == 9  # one shard after another


def test_no_sample_is_displaced_by_as_much_as_the_window() -> None:
    shards = np.zeros(10_000, dtype=np.int32)
    moved = shard_order(shards, window=100, seed=0, epoch=0) - np.arange(10_000)
    assert np.abs(moved).max() < 100
    assert np.abs(moved).max() > 50
    assert abs(moved.mean()) < 1


def test_the_order_of_an_empty_selection_is_empty() -> None:
    none = Selection(5, lambda part: np.zeros(5, dtype=bool))
    assert len(global_order(0, seed=0, epoch=0)) == 0
    assert len(ShardOrder(none, np.zeros(5, dtype=np.int32), window=3).part(seed=0, epoch=0)) == 0


def test_the_order_of_few_samples_keeps_its_numbers() -> None:
    """Those of earlier versions, whose runs are resumed."""
    assert global_order(8, seed=0, epoch=0).tolist() == [6, 4, 1, 3, 5, 2, 7, 0]
    assert global_order(5, seed=3, epoch=1, purpose="pool").tolist() == [2, 4, 3, 1, 0]
    assert derangement(np.arange(6), 6, seed=1, epoch=3).tolist() == [5, 0, 3, 1, 2, 4]


@pytest.mark.parametrize("n", [2, 3, 6, 70_000])
def test_derangement_pairs_no_sample_with_itself_and_uses_each_once(n: int) -> None:
    places = np.arange(n)
    for seed in range(50 if n < 10 else 2):
        partners = derangement(places, n, seed=seed, epoch=0)
        assert not np.any(partners == places)
        assert np.array_equal(np.sort(partners), places)
        assert np.array_equal(derangement(places[::-2], n, seed=seed, epoch=0), partners[::-2])
    if n > 3:
        assert len({tuple(derangement(places, n, seed=1, epoch=epoch)) for epoch in range(5)}) > 1
    with pytest.raises(ConfigError, match="at least two samples"):
        derangement(np.array([0]), 1, seed=0, epoch=0)


def test_the_shares_of_all_ranks_make_up_the_global_batch() -> None:
    batch = np.arange(24)
    for world_size in (1, 2, 3, 4, 24):
        shares = [batch[rank_slice(24, rank=rank, world_size=world_size)] for rank in range(world_size)]
        assert np.array_equal(np.concatenate(shares), batch)
        assert len({len(share) for share in shares}) == 1


def test_an_uneven_batch_or_an_impossible_rank_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"train.batch_size=10 must be a multiple .* 4"):
        rank_slice(10, rank=0, world_size=4)
    with pytest.raises(ConfigError, match=r"rank must be in \[0, 2\)"):
        rank_slice(10, rank=2, world_size=2)


def test_a_data_set_smaller_than_a_batch_is_refused() -> None:
    assert steps_per_epoch(100, 32) == 3
    with pytest.raises(ConfigError, match=r"train.batch_size=32 .* 31 samples"):
        steps_per_epoch(31, 32)


def test_batches_of_several_clips_per_sample_are_counted_in_clips() -> None:
    assert steps_per_epoch(31, 32, per_sample=2) == 1
    assert steps_per_epoch(100, 32, per_sample=4) == 12
    with pytest.raises(ConfigError, match=r"which has 15 samples with clip.per_sample=2 clips each"):
        steps_per_epoch(15, 32, per_sample=2)
    assert rank_slice(24, rank=1, world_size=3, per_sample=4) == slice(8, 16)
    with pytest.raises(ConfigError, match=r"must be a multiple of clip.per_sample=4 times the number of processes"):
        rank_slice(24, rank=0, world_size=4, per_sample=4)
