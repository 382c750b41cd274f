"""What every sampler guarantees, on ordinary and on degenerate inputs."""

from dataclasses import replace

import pytest
import torch

from sampler import SAMPLERS, build_sampler
from tests.sampler.distribution import dense_d2, make_candidates, random_pool, with_scores

D2_SAMPLERS = ("kmeanspp_sequential", "kmeanspp", "kmeanspp_faiss", "kmeanspp_sketch", "kcenter")


def select(name, pool, k, seed=0, **arguments):
    return build_sampler(name).select(with_scores(pool), k, generator=torch.Generator().manual_seed(seed), **arguments)


@pytest.fixture(params=SAMPLERS)
def name(request):
    return request.param


def test_picks_are_as_many_as_requested_all_different_and_valid(name):
    pool = random_pool(300)
    pool = replace(pool, valid=torch.arange(300) % 3 > 0)
    selection = select(name, pool, 50)
    assert selection.indices.dtype == torch.int64
    assert len(set(selection.indices.tolist())) == 50
    assert pool.valid[selection.indices].all()
    assert selection.distances.shape == (50,)
    assert selection.stats["selected"] == 50
    assert selection.stats["missing"] == 0


def test_equal_seeds_give_equal_picks(name):
    pool = random_pool(300)
    assert torch.equal(select(name, pool, 40, seed=5).indices, select(name, pool, 40, seed=5).indices)


def test_the_candidates_are_not_changed(name):
    pool = with_scores(random_pool(100))
    before = {key: None if value is None else value.clone() for key, value in vars(pool).items()}
    build_sampler(name).select(pool, 20, generator=torch.Generator().manual_seed(0))
    assert all(value is None or torch.equal(value, getattr(pool, key)) for key, value in before.items())


def test_a_request_beyond_the_pool_returns_all_rows_and_counts_the_missing(name):
    pool = replace(random_pool(20), valid=torch.arange(20) < 7)
    selection = select(name, pool, 10)
    assert sorted(selection.indices.tolist()) == list(range(7))
    assert selection.stats["missing"] == 3


@pytest.mark.parametrize("k", [0, 1])
def test_zero_and_one_row_can_be_requested(name, k):
    assert len(select(name, random_pool(10), k).indices) == k


def test_an_empty_pool_gives_nothing(name):
    pool = random_pool(10)
    assert len(select(name, replace(pool, valid=torch.zeros(10, dtype=torch.bool)), 3).indices) == 0
    assert len(select(name, pool.rows(slice(0, 0)), 3).indices) == 0


def degenerate(kind):
    pool = random_pool(30)
    a, b = pool.a.clone(), pool.b.clone()
    if kind == "all zero":
        a, b = a * 0, b * 0
    if kind == "identical":
        a, b = a[:1].expand_as(a).contiguous(), b[:1].expand_as(b).contiguous()
    if kind == "two distinct":
        a, b = a[:2].repeat(15, 1), b[:2].repeat(15, 1)
    if kind == "not finite":
        a[3, 0], b[5, 1], b[7] = torch.nan, torch.inf, -torch.inf
    if kind == "huge":
        a = a * 1e15
    if kind == "tiny":
        b = b * 1e-18
    return make_candidates(a, b)


@pytest.mark.parametrize("kind", ["all zero", "identical", "two distinct", "not finite", "huge", "tiny"])
def test_degenerate_inputs_still_give_different_finite_rows(name, kind):
    pool = degenerate(kind)
    selection = select(name, pool, 12)
    norms = (pool.a.square().sum(1).sqrt() * pool.b.square().sum(1).sqrt()).square()
    usable = torch.isfinite(norms)
    assert len(set(selection.indices.tolist())) == min(12, int(usable.sum()))
    assert usable[selection.indices].all()
    assert selection.stats["invalid"] == int((~usable).sum())


@pytest.mark.parametrize("name", D2_SAMPLERS)
def test_copies_of_a_pick_come_last(name):
    pool = random_pool(10)
    pool = make_candidates(pool.a.repeat(4, 1), pool.b.repeat(4, 1))
    selection = select(name, pool, 15)
    assert sorted(i % 10 for i in selection.indices[:10].tolist()) == list(range(10))
    assert selection.stats["uniform_fill"] == 5


@pytest.mark.parametrize("name", ["kmeanspp_sequential", "kmeanspp", "kmeanspp_faiss", "kcenter"])
def test_distances_are_those_when_the_row_was_picked(name):
    pool = random_pool(200)
    selection = select(name, pool, 30)
    d2 = dense_d2(pool)[selection.indices][:, selection.indices]
    expected = torch.stack([d2[i, :i].amin() for i in range(1, 30)]).float()
    assert selection.distances[0] == torch.inf
    # A rough bound may change the last digits of a distance, never its magnitude.
    assert torch.allclose(selection.distances[1:], expected, rtol=1e-3, atol=1e-4 * float(expected.amax()))
