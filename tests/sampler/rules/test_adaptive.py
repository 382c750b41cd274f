"""When `adaptive` takes `hard` and when it takes `kcenter`."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from sampler import build_sampler
from sampler.base import Candidates
from sampler.gradient import gradient_factors
from settings.errors import ConfigError
from tests.sampler.distribution import random_pool

HARDEST, K = 10, 10


def pool_where_the_hardest_outrank(share, *, others):
    """Returns 100 rows. The first ten are most similar to the queries and outrank `share` of the positives; the other
    rows outrank `others` of them."""
    pool = random_pool(100)
    hardest = torch.arange(100) < HARDEST
    outrank_fraction = torch.where(hardest, share, others)
    return replace(pool, similarity=hardest + 0.01 * torch.rand(100), outrank_fraction=outrank_fraction)


def select(pool, name="adaptive", **options):
    return build_sampler(name, options).select(pool, K, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("level", [0.0, 0.4])
def test_the_hardest_are_taken_while_they_outrank_no_more_than_others_at_any_level(level):
    pool = pool_where_the_hardest_outrank(level + 0.06, others=level)
    selection = select(pool)
    assert torch.equal(selection.indices, select(pool, "hard").indices)
    assert selection.stats["hard"] == 1
    assert selection.stats["excess"] == pytest.approx(0.9 * 0.06, abs=1e-6)


def test_picks_are_spread_where_the_hardest_outrank_more_than_others():
    pool = pool_where_the_hardest_outrank(0.2, others=0.1)
    selection, spread = select(pool), select(pool, "kcenter")
    assert torch.equal(selection.indices, spread.indices)
    assert torch.equal(selection.distances, spread.distances)
    assert selection.stats == {**spread.stats, "hard": 0.0, "excess": pytest.approx(0.09)}


def test_the_threshold_is_the_largest_difference_that_is_tolerated():
    pool = pool_where_the_hardest_outrank(0.2, others=0.1)
    assert select(pool, threshold=0.08).stats["hard"] == 0
    assert select(pool, threshold=0.1).stats["hard"] == 1


def test_rows_that_may_not_be_picked_do_not_count():
    pool = pool_where_the_hardest_outrank(0.2, others=0.1)
    excluded = torch.cat([pool.outrank_fraction, torch.ones(100)])
    twice = torch.arange(200) % 100
    pool = replace(pool.rows(twice), outrank_fraction=excluded, valid=torch.arange(200) < 100)
    assert select(pool).stats["excess"] == pytest.approx(0.09)


def test_picks_keep_away_from_a_dictionary_that_counts_as_chosen():
    pool = pool_where_the_hardest_outrank(0.9, others=0.1)
    chosen = pool.rows(slice(20, 60))
    picks = build_sampler("adaptive").select(pool, K, generator=torch.Generator().manual_seed(0), dictionary=chosen)
    assert not set(picks.indices.tolist()) & set(range(20, 60))


def test_without_positives_the_error_names_the_missing_column():
    pool = replace(pool_where_the_hardest_outrank(0.2, others=0.1), outrank_fraction=None)
    with pytest.raises(ValueError, match="outrank_fraction"):
        select(pool)


@pytest.mark.parametrize("threshold", [-0.1, 1.1])
def test_a_threshold_outside_0_to_1_is_refused(threshold):
    with pytest.raises(ConfigError, match="threshold"):
        build_sampler("adaptive", {"threshold": threshold})


@pytest.mark.parametrize(("frequent", "hard"), [(48, 0.0), (0, 1.0)])
def test_a_frequent_class_is_detected(frequent, hard):
    # There are 64 queries and 512 candidates of 64 well separated classes, each near its class's direction. `frequent`
    # of the queries, and the same share of the candidates, are of class 0.
    generator = torch.Generator().manual_seed(0)
    means = 3 * torch.eye(64)

    def draw(count):
        classes = torch.arange(count) % 64
        classes[torch.randperm(count, generator=generator)[: count * frequent // 64]] = 0
        return classes, lambda: F.normalize(means[classes] + 0.3 * torch.randn(count, 64, generator=generator), dim=1)

    (_, keys), (_, views) = draw(512), draw(64)
    factors = gradient_factors(keys(), views(), embedding="feature", temperature=0.1, positives=views())
    ids = torch.arange(512)
    pool = Candidates(**vars(factors), ids=ids, valid=ids >= 0, write_index=ids)
    assert select(pool).stats["hard"] == hard
