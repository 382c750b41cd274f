"""Uniform draws between two percentiles of similarity."""

import torch

from sampler import build_sampler
from tests.sampler.distribution import random_pool, with_scores


def test_the_band_stays_between_its_percentiles_and_widens_when_it_is_too_small():
    pool = with_scores(random_pool(200))
    rank = pool.similarity.argsort().argsort()
    sampler = build_sampler("ring", {"low": 40, "high": 60})
    generator = torch.Generator().manual_seed(0)
    inside = rank[sampler.select(pool, 30, generator=generator).indices]
    assert inside.min() >= 80
    assert inside.max() < 120
    assert rank[sampler.select(pool, 100, generator=generator).indices].max() < 120
