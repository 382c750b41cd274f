"""The choice between dense sampling and the index."""

import torch

from sampler import build_sampler
from tests.sampler.distribution import random_pool


def test_auto_takes_the_index_only_for_many_picks_and_not_too_many_candidates_per_pick(monkeypatch):
    monkeypatch.setattr("sampler.rules.auto.INDEX_FROM", (20, 100))
    pool = random_pool(200)
    seeded = torch.Generator().manual_seed
    auto, dense = build_sampler("auto"), build_sampler("kmeanspp")
    indexed = build_sampler("kmeanspp_faiss", {"index_on": "sketch"})
    assert auto.select(pool, 40, generator=seeded(0)).indices.equal(
        indexed.select(pool, 40, generator=seeded(0)).indices
    )
    assert auto.select(pool, 10, generator=seeded(0)).indices.equal(dense.select(pool, 10, generator=seeded(0)).indices)
    monkeypatch.setattr("sampler.rules.auto.CANDIDATES_PER_PICK", 4)
    assert auto.select(pool, 40, generator=seeded(0)).indices.equal(dense.select(pool, 40, generator=seeded(0)).indices)
