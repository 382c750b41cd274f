"""The order of samples of several data sets with weights, and of samples with weights."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.plan.mixture import Mixture, WeightedSet, drawn_per_pass
from pipeline.plan.order import ShardOrder, global_order, rank_slice
from pipeline.plan.selection import Selection
from settings.errors import ConfigError

BATCH = 32
SIZES, SHARES = (1000, 100, 2900), (0.5, 0.2, 0.3)
FIRSTS = np.cumsum([0, *SIZES])


def mixture(*, sizes=SIZES, shares=SHARES, weights=None, batch=BATCH, seed=3, arrange=None) -> Mixture:
    firsts = np.cumsum([0, *sizes])
    sets = [
        WeightedSet(
            key=f"data.mix.set{number}.",
            ids=np.arange(sizes[number]),
            first=int(firsts[number]),
            share=share,
            weights=(weights or {}).get(number),
            arrange=arrange,
        )
        for number, share in enumerate(shares)
    ]
    return Mixture(sets, batch=batch, seed=seed)


def which(ids: np.ndarray) -> np.ndarray:
    return np.searchsorted(FIRSTS, ids, side="right") - 1


def test_one_data_set_without_weights_has_the_order_of_a_run_of_it_alone():
    ids, passes = mixture(sizes=[100], shares=[1.0], batch=8).samples(np.arange(36 * 8))
    epochs = [global_order(100, seed=3, epoch=epoch)[:96] for epoch in range(3)]
    assert np.array_equal(ids, np.concatenate(epochs))
    assert np.array_equal(passes, np.repeat(np.arange(3), 96))


def test_any_part_of_the_order_can_be_computed_alone_however_many_ranks_share_it():
    whole = mixture().samples(np.arange(50 * BATCH))
    for world in (1, 2, 4):
        for step in (0, 17, 49):
            shares = [rank_slice(BATCH, rank=rank, world_size=world) for rank in range(world)]
            parts = [mixture().samples(step * BATCH + np.arange(BATCH)[share]) for share in shares]
            for mine, all_of_them in zip(zip(*parts, strict=True), whole, strict=True):
                assert np.array_equal(np.concatenate(mine), all_of_them[step * BATCH : (step + 1) * BATCH])
            assert len(set(np.concatenate([ids for ids, _ in parts]).tolist())) == BATCH  # disjoint
    late, _ = mixture().samples(10**12 + np.arange(BATCH))
    assert len(set(late.tolist())) == BATCH


@pytest.mark.parametrize("shares", [SHARES, (1e-7, 0.3, 0.7 - 1e-7), (0.98, 0.01, 0.01)])
def test_shares_are_exact_to_a_sample_per_data_set_and_so_within_their_binomial_intervals(shares):
    count = 2000 * BATCH
    one = mixture(shares=shares, sizes=(70_000, 1000, 3000))
    ids, _ = one.samples(np.arange(count))
    drawn = np.searchsorted([70_000, 71_000], ids, side="right")
    for first in (1, BATCH, 777, count):
        found = np.bincount(drawn[:first], minlength=3)
        assert np.array_equal(found, one.counts(first))
        assert np.abs(found - first * np.array(shares)).max() <= 2
    deviation = np.sqrt(count * np.array(shares) * (1 - np.array(shares)))
    assert (np.abs(found - count * np.array(shares)) <= 1.96 * deviation + 1).all()


def test_batches_hold_different_samples_and_each_data_set_is_gone_through_in_passes():
    steps = 3000
    ids, passes = mixture().samples(np.arange(steps * BATCH))
    assert all(len(set(row)) == BATCH for row in ids.reshape(steps, BATCH).tolist())
    for number, (size, share) in enumerate(zip(SIZES, SHARES, strict=True)):
        rows = which(ids) == number
        assert np.array_equal(passes[rows], np.sort(passes[rows]))
        for one in range(passes[rows].max()):
            seen = ids[rows & (passes == one)]
            assert len(set(seen.tolist())) == len(seen)
            # As at the end of an epoch, less than the next batch needs is left over.
            assert size - share * BATCH - 3 <= len(seen) <= size
        assert len(set(ids[rows].tolist())) == size


def test_passes_are_in_different_orders():
    ids, passes = mixture().samples(np.arange(200 * BATCH))
    small = [ids[(which(ids) == 1) & (passes == one)][:90].tolist() for one in range(3)]
    assert small[0] != small[1] != small[2]
    same_size = mixture(sizes=(500, 500), shares=(0.5, 0.5)).samples(np.arange(10 * BATCH))[0]
    assert (same_size[same_size < 500][:100] != same_size[same_size >= 500][:100] - 500).any()


def test_a_further_data_set_at_the_end_changes_no_order_of_the_others():
    with_two = mixture(sizes=SIZES[:2], shares=(0.7, 0.3)).samples(np.arange(100 * BATCH))
    with_three = mixture().samples(np.arange(100 * BATCH))
    for number in range(2):
        firsts = [ids[(which(ids) == number) & (passes == 0)][:80] for ids, passes in (with_two, with_three)]
        assert np.array_equal(*firsts)


def test_samples_are_drawn_in_proportion_to_their_weights_and_at_most_once_per_pass():
    rng = np.random.default_rng(0)
    weights = rng.choice([0.25, 1.0, 3.0], 400)
    one = mixture(sizes=[400], shares=[1.0], weights={0: weights}, batch=8)
    drawn = drawn_per_pass(weights)
    assert one.drawn.tolist() == [drawn] == [int(weights.sum() / 3)]
    passes, steps = 500, drawn // 8
    ids, which_pass = one.samples(np.arange(passes * steps * 8))
    assert np.array_equal(np.bincount(which_pass), np.full(passes, steps * 8))
    pairs = which_pass * 400 + ids
    assert len(np.unique(pairs)) == len(pairs)
    share = weights / weights.sum() * steps * 8  # probability that a sample is in a pass
    counts = np.bincount(ids, minlength=400)
    deviation = np.sqrt(passes * share * np.clip(1 - share, 0, 1)) + 1
    assert (np.abs(counts - passes * share) < 3.5 * deviation).all()
    # A sample with a quarter of the largest probability is in every fourth pass or so.
    rare = np.flatnonzero(weights == 0.25)[0]
    gaps = np.diff(np.unique(which_pass[ids == rare]))
    assert gaps.max() < 6 / share[rare]
    # Shares of groups of samples, in their binomial intervals.
    for weight in (0.25, 1.0, 3.0):
        group = weights == weight
        expected = weights[group].sum() / weights.sum()
        assert abs(counts[group].sum() / len(ids) - expected) < 1.96 * np.sqrt(expected * (1 - expected) / len(ids))


def test_equal_weights_draw_each_sample_once_per_pass():
    one = mixture(sizes=[300], shares=[1.0], weights={0: np.full(300, 0.1)}, batch=10)
    ids, passes = one.samples(np.arange(900))
    assert passes.tolist() == np.repeat([0, 1, 2], 300).tolist()
    assert all(np.array_equal(np.sort(ids[passes == one]), np.arange(300)) for one in range(3))


def test_the_pool_gets_different_samples_in_the_shares_as_far_as_there_are_enough():
    ids = mixture().distinct(400, epoch=0, purpose="pool")
    assert np.bincount(which(ids)).tolist() == [200, 80, 120]
    ids = mixture().distinct(1000, epoch=0, purpose="pool")
    assert np.bincount(which(ids)).tolist() == [500, 100, 300]
    assert len(set(ids.tolist())) == len(ids)
    alone = mixture(sizes=[100], shares=[1.0]).distinct(64, epoch=5, purpose="pool")
    assert np.array_equal(alone, global_order(100, seed=3, epoch=5, purpose="pool")[:64])


def test_replacements_are_of_the_same_data_set_and_drawn_in_proportion_to_the_weights():
    one = mixture(weights={1: np.repeat([3.0, 1.0], 50)})
    numbers = np.linspace(0, 1, 4000, endpoint=False)
    for number in range(3):
        drawn = np.array([one.replacement(int(FIRSTS[number]) + 5, float(u)) for u in numbers])
        assert set(which(drawn)) == {number}
    middle = np.array([one.replacement(1005, float(u)) for u in numbers])
    assert abs((middle < 1050).mean() - 0.75) < 0.01


def test_shards_in_random_order_are_kept_within_each_data_set():
    shards = np.repeat(np.arange(10), 10)

    def arrange(indices: np.ndarray, epoch: int, purpose: str) -> np.ndarray:
        order = ShardOrder(Selection(len(indices)), shards[indices], window=1)
        return order.part(seed=3, epoch=epoch, purpose=purpose)

    one = mixture(sizes=(100, 100), shares=(0.5, 0.5), arrange=arrange, batch=4)
    ids, _ = one.samples(np.arange(200))
    for first in (0, 100):
        mine = ids[(ids >= first) & (ids < first + 100)] - first
        assert np.array_equal(np.sort(mine), np.arange(100))
        assert (np.diff(shards[mine]) != 0).sum() == 9


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"sizes": (1000, 5, 2900)},
            r"a batch holds up to 7 samples of the data set at data.mix.set1.path, which has 5",
        ),
        (
            {"weights": {0: np.array([1e6] + [1.0] * 999)}},
            r"1000 samples, of which data.mix.set0.weights allows only 1",
        ),
    ],
)
def test_a_batch_never_holds_a_sample_twice(changes, message):
    with pytest.raises(ConfigError, match=message):
        mixture(**changes)
