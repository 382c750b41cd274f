"""Blocked sampling as it is done on GPUs, run on a CPU; test_distribution.py tests its distribution."""

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx

from sampler.d2 import device_rounds
from sampler.d2.dense_bounds import DenseBounds
from sampler.d2.device_rounds import Rounds, select_on_device
from sampler.d2.distance import squared_norms
from tests.sampler.distribution import make_candidates, random_pool


def select(pool, k, *, seed=0, bf16=False, dictionary=None):
    generator = torch.Generator().manual_seed(seed)
    return select_on_device(pool, k, bf16=bf16, first_pick="uniform", generator=generator, dictionary=dictionary)


def state(pool, k):
    norms = squared_norms(pool)
    d2 = norms.clone()
    return Rounds(
        bounds=DenseBounds(pool, norms),
        d2=d2,
        indices=torch.zeros(k + 1, dtype=torch.int64),
        distances=torch.zeros(k + 1),
        count=torch.zeros(1, dtype=torch.int64),
        unsettled=torch.zeros(1, dtype=torch.bool),
    )


def test_a_run_of_rounds_reads_nothing_back_to_the_host():
    pool = random_pool(300)

    def rounds(uniforms):
        here = state(pool, 30)
        here.run(uniforms, passes=4)
        return here.indices

    # Tracing with fake tensors fails at the first value that the host asks for.
    make_fx(rounds, tracing_mode="fake", _allow_non_fake_inputs=True)(torch.rand(3, 2, 16, dtype=torch.float64))


def test_rounds_after_the_last_pick_change_nothing():
    pool = random_pool(300)
    here, uniforms = state(pool, 10), torch.rand(2, 2, 32, dtype=torch.float64)
    here.run(uniforms, passes=32)
    assert int(here.count) == 10
    picks, d2 = here.indices[:10].clone(), here.d2.clone()
    here.run(uniforms, passes=32)
    assert torch.equal(here.indices[:10], picks)
    assert torch.equal(here.d2, d2)


def test_conflicts_that_need_more_passes_are_decided_the_same(monkeypatch):
    pool = random_pool(300)
    expected = select(pool, 60).indices
    monkeypatch.setattr(device_rounds, "_PASSES", 1)
    assert torch.equal(select(pool, 60).indices, expected)


@pytest.mark.parametrize("bf16", [False, True])
def test_exact_duplicates_of_a_pick_are_never_picked(bf16):
    pool = random_pool(20)
    pool = make_candidates(pool.a.repeat(5, 1), pool.b.repeat(5, 1))
    selection = select(pool, 30, bf16=bf16)
    assert sorted(i % 20 for i in selection.indices[:20].tolist()) == list(range(20))
    assert len(selection.indices.unique()) == 30
    assert selection.stats["uniform_fill"] == 10


def test_rows_that_are_not_finite_are_left_out_and_counted():
    pool = random_pool(50)
    pool.a[3, 0], pool.b[5] = torch.nan, torch.inf
    selection = select(pool, 48)
    assert sorted(selection.indices.tolist()) == [i for i in range(50) if i not in (3, 5)]
    assert selection.stats["invalid"] == 2


def test_a_dictionary_that_covers_the_pool_leaves_only_the_uniform_fill():
    pool = random_pool(20)
    selection = select(pool, 5, dictionary=pool)
    assert selection.stats["uniform_fill"] == 5
