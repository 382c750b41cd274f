"""The quality measures of a selection."""

import pytest
import torch

from sampler.quality import near_duplicate_share, phi
from tests.sampler import distribution


def test_phi_is_the_sum_of_distances_to_the_nearest_pick():
    pool = distribution.random_pool(200)
    picks = torch.tensor([3, 50, 199])
    assert abs(phi(pool, picks) / distribution.phi(pool, picks) - 1) < 1e-4


def test_picks_that_nearly_repeat_each_other_are_counted():
    pool = distribution.random_pool(20)
    a = torch.cat([pool.a, pool.a[:5] * 1.001])
    twice = distribution.make_candidates(a, torch.cat([pool.b, pool.b[:5]]))
    before = near_duplicate_share(twice, torch.arange(5, 15))
    share = near_duplicate_share(twice, torch.tensor([*range(5, 15), 0, 20]))
    assert share == pytest.approx((10 * before + 2) / 12)
