"""The choice between dense sampling and the index."""

import torch

from sampler import build_sampler
from tests.sampler.distribution import random_pool


def test_auto_takes_the_index_for_many_picks_from_a_large_pool(monkeypatch):
    monkeypatch.setattr("sampler.rules.auto.INDEX_FROM", (20, 100))
    pool = random_pool(200)
    generator = torch.Generator().manual_seed
    auto, few = build_sampler("auto"), build_sampler("kmeanspp")
    many = build_sampler("kmeanspp_faiss", {"index_on": "sketch"})
    assert auto.select(pool, 40, generator=generator(0)).indices.equal(
        many.select(pool, 40, generator=generator(0)).indices
    )
    assert auto.select(pool, 10, generator=generator(0)).indices.equal(
        few.select(pool, 10, generator=generator(0)).indices
    )
    monkeypatch.setattr("sampler.rules.auto.CANDIDATES_PER_PICK", 4)
    assert auto.select(pool, 40, generator=generator(0)).indices.equal(
        few.select(pool, 40, generator=generator(0)).indices
    )
