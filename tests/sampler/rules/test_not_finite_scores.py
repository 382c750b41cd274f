"""A score that is not finite never puts a row first."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from sampler import SAMPLERS, build_sampler
from tests.sampler.distribution import random_pool, with_scores


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize(("name", "column"), [("hard", "similarity"), ("ohem", "loss")])
def test_a_row_whose_score_is_not_finite_comes_last(name, column, bad):
    scores = -1 - torch.arange(40.0)
    scores[7] = bad
    pool = replace(with_scores(random_pool(40)), **{column: scores})
    selection = build_sampler(name).select(pool, 40, generator=torch.Generator().manual_seed(0))
    assert selection.indices.tolist() == [*range(7), *range(8, 40), 7]


@pytest.mark.parametrize("name", ["hard", "ohem", "ring"])
def test_rows_whose_score_is_not_finite_are_picked_only_if_there_are_no_others(name):
    scores = torch.linspace(-1, 1, 40)
    scores[[3, 17, 39]] = torch.tensor([torch.nan, torch.inf, -torch.inf])
    pool = replace(with_scores(random_pool(40)), similarity=scores, loss=scores)
    sampler = build_sampler(name, {"low": 0.0, "high": 100.0} if name == "ring" else {})
    for k in (1, 20, 37):
        picks = sampler.select(pool, k, generator=torch.Generator().manual_seed(0)).indices.tolist()
        assert len(set(picks)) == k
        assert not {3, 17, 39} & {*picks}
    everything = sampler.select(pool, 40, generator=torch.Generator().manual_seed(0))
    assert sorted(everything.indices.tolist()) == [*range(40)]


def test_adaptive_leaves_outrank_fractions_that_are_not_finite_out_of_both_means():
    pool = replace(with_scores(random_pool(40)), similarity=torch.arange(40.0))
    outrank_fraction = torch.zeros(40)
    outrank_fraction[30:] = 0.5
    outrank_fraction[[0, 35]] = torch.tensor([torch.inf, torch.nan])
    selection = build_sampler("adaptive").select(
        replace(pool, outrank_fraction=outrank_fraction), 8, generator=torch.Generator().manual_seed(0)
    )
    assert selection.stats["excess"] == pytest.approx(0.5 - 9 * 0.5 / 38)
    assert selection.stats["hard"] == 0.0


@pytest.mark.parametrize("name", SAMPLERS)
def test_rows_between_which_distances_overflow_are_not_finite(name):
    pool = random_pool(40)
    a, b = torch.nn.functional.normalize(pool.a, dim=1), torch.nn.functional.normalize(pool.b, dim=1)
    a[[3, 5]] = a[3] * torch.tensor([[1.8e19], [-1.8e19]])
    pool = with_scores(replace(pool, a=a, b=b))
    selection = build_sampler(name).select(pool, 12, generator=torch.Generator().manual_seed(0))
    assert len(set(selection.indices.tolist())) == 12
    assert not selection.distances[1:].isinf().any()
    assert not selection.distances.isnan().any()
