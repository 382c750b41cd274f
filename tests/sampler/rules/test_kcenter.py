"""Farthest-first traversal."""

import torch

from sampler import build_sampler
from tests.sampler.distribution import dense_d2, random_pool


def test_kcenter_takes_the_farthest_row_each_time():
    pool = random_pool(200)
    picks = build_sampler("kcenter").select(pool, 60, generator=torch.Generator().manual_seed(0)).indices
    d2 = dense_d2(pool)
    for n in range(1, 60):
        nearest = d2[:, picks[:n]].amin(1)
        assert nearest[picks[n]] >= nearest.amax() * (1 - 1e-4)
