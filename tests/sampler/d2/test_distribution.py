"""Exact backends draw from the enumerated distribution; the same test detects a backend that is not exact."""

import pytest
import torch
from scipy import stats

from sampler import build_sampler
from sampler.d2.blocked import select_blocked
from sampler.d2.device_rounds import select_on_device
from sampler.d2.indexed_bounds import IndexedBounds
from sampler.fallbacks import make_selection
from tests.sampler.distribution import (
    chi_square,
    dense_d2,
    enumerated_distribution,
    make_candidates,
    ordered_draws,
    phi,
    random_pool,
    tiny_pool,
)

K, DRAWS = 4, 3000


class RandomIndex:
    """kmeanspp_faiss over a partition that is independent of the rows."""

    def select(self, candidates, k, *, generator, dictionary=None):
        cell = torch.randint(3, (len(candidates),), generator=generator)
        return select_blocked(
            candidates,
            k,
            make_bounds=lambda rows, norms, usable: IndexedBounds(rows, norms, cell),
            first_pick="uniform",
            generator=generator,
            dictionary=dictionary,
        )


class OnDevice:
    """Blocked sampling as it is done on GPUs, run on a CPU."""

    def select(self, candidates, k, *, generator, dictionary=None):
        return select_on_device(
            candidates, k, bf16=False, first_pick="uniform", generator=generator, dictionary=dictionary
        )


class NaiveBatch:
    """A wrong sampler: it draws all picks but the first at once from the stale distribution, without repeats."""

    def select(self, candidates, k, *, generator, dictionary=None):
        first = torch.randint(len(candidates), (1,), generator=generator)
        d2 = dense_d2(candidates, candidates.rows(first)).squeeze(1)
        d2[first] = 0
        rest = torch.multinomial(d2, k - 1, generator=generator)
        return make_selection(torch.cat([first, rest]), None, k, invalid=0)


EXACT = {
    "sequential": lambda: build_sampler("kmeanspp_sequential"),
    "blocked fp32": lambda: build_sampler("kmeanspp", {"precision": "fp32"}),
    "blocked bf16": lambda: build_sampler("kmeanspp", {"precision": "bf16"}),
    "index": lambda: build_sampler("kmeanspp_faiss", {"cells": 3}),
    "random index": RandomIndex,
    "on device": OnDevice,
}


@pytest.mark.parametrize("name", EXACT)
def test_exact_samplers_draw_from_the_enumerated_distribution(name):
    pool = tiny_pool()
    assert chi_square(ordered_draws(EXACT[name](), pool, K, DRAWS), enumerated_distribution(pool, K)) > 0.01


def test_a_batch_from_the_stale_distribution_without_rejection_is_detected():
    pool = tiny_pool()
    assert chi_square(ordered_draws(NaiveBatch(), pool, K, DRAWS), enumerated_distribution(pool, K)) < 1e-6


@pytest.mark.parametrize("largest", [1, 3, 64])
def test_the_distribution_does_not_depend_on_the_block_size(largest, monkeypatch):
    monkeypatch.setattr("sampler.d2.blocked.SMALLEST_BLOCK", 1)
    monkeypatch.setattr("sampler.d2.blocked.LARGEST_BLOCK", largest)
    pool = tiny_pool()
    assert chi_square(ordered_draws(EXACT["blocked fp32"](), pool, 3, 1500), enumerated_distribution(pool, 3)) > 0.01


def test_dropping_proposals_that_will_be_rejected_leaves_the_distribution_as_it_is(monkeypatch):
    monkeypatch.setattr("sampler.d2.centres._CHUNK", 1)
    monkeypatch.setattr("sampler.d2.blocked.SMALLEST_BLOCK", 2)
    pool = tiny_pool()
    assert chi_square(ordered_draws(RandomIndex(), pool, K, DRAWS), enumerated_distribution(pool, K)) > 0.01


def test_candidates_without_second_factors_are_sampled_from_their_distribution():
    pool = make_candidates(tiny_pool().a)
    draws = ordered_draws(EXACT["blocked fp32"](), pool, 3, 1500)
    assert chi_square(draws, enumerated_distribution(pool, 3)) > 0.01


def test_conditioning_on_a_dictionary_is_sampling_after_its_rows():
    pool = tiny_pool()
    dictionary = pool.rows(torch.tensor([1, 4]))
    d2 = dense_d2(pool, dictionary).amin(1)
    expected = d2.masked_fill(d2 < 1e-9, 0) / d2.sum()
    for name in ("sequential", "blocked bf16", "index", "on device"):
        sampler, generator = EXACT[name](), torch.Generator().manual_seed(1)
        picks = [int(sampler.select(pool, 1, generator=generator, dictionary=dictionary).indices) for _ in range(1500)]
        counts = torch.bincount(torch.tensor(picks), minlength=len(pool))
        possible = expected > 0
        assert counts[~possible].sum() == 0
        assert stats.chisquare(counts[possible], expected[possible] * 1500).pvalue > 0.01


@pytest.mark.parametrize("name", ["blocked fp32", "blocked bf16", "index", "random index", "on device"])
def test_phi_has_the_distribution_of_sequential_sampling(name):
    pool = random_pool(400)

    def phis(sampler, offset):
        generators = (torch.Generator().manual_seed(offset + seed) for seed in range(60))
        return [phi(pool, sampler.select(pool, 20, generator=generator).indices) for generator in generators]

    assert stats.ks_2samp(phis(EXACT["sequential"](), 0), phis(EXACT[name](), 1000)).pvalue > 0.01


@pytest.mark.parametrize(("first_pick", "expected"), [("norm", None), ("argmax", 1.0)])
def test_the_first_pick_follows_the_chosen_distribution(first_pick, expected):
    pool = random_pool(12)
    norms = (pool.a.square().sum(1) * pool.b.square().sum(1)).double()
    probability = norms / norms.sum() if expected is None else (norms == norms.amax()).double()
    for name in ("kmeanspp_sequential", "kmeanspp", "kmeanspp_faiss"):
        draws = ordered_draws(build_sampler(name, {"first_pick": first_pick}), pool, 1, 800)
        counts = torch.bincount(torch.tensor(draws).flatten(), minlength=12).double()
        assert (counts / 800 - probability).abs().max() < 0.06


def test_samplers_that_are_not_exact_have_the_documented_phi():
    pool = random_pool(600, clusters=20)

    def mean_phi(name, **options):
        sampler = build_sampler(name, options)
        generators = [torch.Generator().manual_seed(seed) for seed in range(12)]
        return sum(phi(pool, sampler.select(pool, 40, generator=g).indices) for g in generators) / 12

    exact = mean_phi("kmeanspp")
    assert mean_phi("kmeanspp_sketch") < 1.15 * exact
    assert mean_phi("kmeanspp_greedy") < 0.8 * exact
    assert mean_phi("uniform") > 1.3 * exact
