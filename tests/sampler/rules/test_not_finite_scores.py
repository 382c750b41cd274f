"""A score that is not finite never puts a row first."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from sampler import build_sampler
from tests.sampler.distribution import random_pool, with_scores


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize(("name", "column"), [("hard", "similarity"), ("ohem", "loss")])
def test_a_row_whose_score_is_not_finite_comes_last(name, column, bad):
    scores = -1 - torch.arange(40.0)
    scores[7] = bad
    pool = replace(with_scores(random_pool(40)), **{column: scores})
    selection = build_sampler(name).select(pool, 40, generator=torch.Generator().manual_seed(0))
    assert selection.indices.tolist() == [*range(7), *range(8, 40), 7]
