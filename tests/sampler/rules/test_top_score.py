"""Rules that take the top of one score."""

import torch

from sampler import build_sampler
from tests.sampler.distribution import random_pool, with_scores


def test_the_score_rules_take_the_top_of_their_score():
    pool = with_scores(random_pool(100))
    norms = pool.a.square().sum(1) * pool.b.square().sum(1)
    for name, score in (
        ("grad_norm", norms),
        ("ohem", pool.loss),
        ("hard", pool.similarity),
        ("fifo", pool.write_index),
    ):
        picks = build_sampler(name).select(pool, 10, generator=torch.Generator().manual_seed(0)).indices
        assert picks.tolist() == score.argsort(descending=True)[:10].tolist()
