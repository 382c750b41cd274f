"""The components of the blocked samplers."""

from dataclasses import replace

import pytest
import torch

from sampler.base import required
from sampler.d2 import centres, distribution
from sampler.d2.accept import settle
from sampler.d2.dense_bounds import DenseBounds, RoughBounds
from sampler.d2.distance import squared_norms
from sampler.d2.faiss_index import PersistentIndex
from sampler.d2.indexed_bounds import IndexedBounds
from sampler.d2.proposals import Proposals, propose
from tests.sampler.distribution import dense_d2, random_pool


def serial(blocked_by):
    accepted = []
    for i in range(len(blocked_by)):
        accepted.append(not any(blocked_by[i, j] and accepted[j] for j in range(i)))
    return accepted


def test_the_vectorised_accept_pass_equals_the_serial_loop():
    generator = torch.Generator().manual_seed(0)
    for density in (0.02, 0.2, 0.9):
        for _ in range(20):
            blocked_by = (torch.rand(40, 40, generator=generator) < density).tril_(-1)
            assert settle(blocked_by).tolist() == serial(blocked_by)


def test_a_chain_of_conflicts_as_long_as_the_block_settles():
    blocked_by = torch.diag(torch.ones(32, dtype=torch.bool), -1)
    assert settle(blocked_by).tolist() == [i % 2 == 0 for i in range(33)]


def lowered(make_bounds, pool, blocks):
    norms = squared_norms(pool)
    bounds, u = make_bounds(pool, norms), torch.full((len(pool),), torch.inf)
    for block in blocks:
        bounds.lower(u, pool.rows(block), norms[block])
    return u.double(), dense_d2(pool, pool.rows(torch.cat(blocks))).amin(1)


BLOCKS = [torch.arange(start, stop) for start, stop in ((0, 1), (1, 9), (9, 40), (40, 120))]


def test_dense_bounds_are_the_distances():
    u, d2 = lowered(DenseBounds, random_pool(3000), BLOCKS)
    assert torch.allclose(u, d2, rtol=1e-3, atol=2e-5 * float(d2.amax()))
    assert (u[:120] == 0).all()


def test_rough_and_indexed_bounds_are_never_below_the_distances():
    pool = random_pool(3000, clusters=40)
    floor = 1e-5 * squared_norms(pool).double()
    cell = torch.randint(17, (3000,), generator=torch.Generator().manual_seed(0))
    for make in (RoughBounds, lambda rows, norms: IndexedBounds(rows, norms, cell)):
        u, d2 = lowered(make, pool, BLOCKS)
        assert (u >= d2 - floor).all()


def test_rough_bounds_hold_for_rows_that_bf16_rounds_worst():
    """Each number lies just above the middle between two of bf16, so all errors are as large as can be, and add up."""
    pool = random_pool(200)
    worst = 1 + 2.0**-8 + 2.0**-11 * torch.rand(pool.a.shape, generator=torch.Generator().manual_seed(0))
    pool = replace(pool, a=worst, b=worst[:, : required(pool.b, "b").shape[1]])
    u, d2 = lowered(RoughBounds, pool, BLOCKS[:2])
    assert (d2[9:] > 0).all()
    assert (u >= d2 - 1e-5 * squared_norms(pool).double()).all()
    assert (u[9:] > 0).all()


def test_rough_bounds_are_within_the_error_they_allow_for():
    pool = random_pool(1000)
    u, d2 = lowered(RoughBounds, pool, BLOCKS[:2])
    nearest = dense_d2(pool, pool.rows(torch.arange(9))).argmin(1)
    norms = squared_norms(pool).double()
    assert (u - d2 <= 0.06 * (norms + norms[nearest])).all()


def test_an_index_over_good_cells_leaves_most_pairs_out():
    pool = random_pool(4000, clusters=40)
    norms = squared_norms(pool)
    cell = PersistentIndex().cells(pool.a, pool.write_index, pool.valid, cells=40)
    bounds, u = IndexedBounds(pool, norms, cell), torch.full((4000,), torch.inf)
    first = torch.arange(200)
    bounds.lower(u, pool.rows(first), norms[first])
    more = torch.arange(200, 300)
    assert bounds.lower(u, pool.rows(more), norms[more]) < 0.2 * 4000 * 100


def test_an_index_assigns_only_the_rows_that_were_written(monkeypatch):
    pool = random_pool(500)
    index = PersistentIndex()
    before = index.cells(pool.a, pool.write_index, pool.valid, cells=8).clone()
    assigned = []

    def spy(rows, centroids):
        assigned.append(len(rows))
        return torch.full((len(rows),), 7)

    monkeypatch.setattr("sampler.d2.faiss_index.assign", spy)
    write_index = pool.write_index.clone()
    write_index[[3, 90]] += 1000
    after = index.cells(pool.a, write_index, pool.valid, cells=8)
    assert assigned == [2]
    assert after[[3, 90]].tolist() == [7, 7]
    untouched = torch.ones(500, dtype=torch.bool)
    untouched[[3, 90]] = False
    assert torch.equal(after[untouched], before[untouched])


def test_an_updated_index_agrees_with_one_restored_from_its_quantiser():
    pool = random_pool(300)
    one, other = PersistentIndex(), PersistentIndex()
    one.cells(pool.a, pool.write_index, pool.valid, cells=6)
    other.load_state_dict(one.state_dict())
    a, write_index = pool.a.clone(), pool.write_index.clone()
    a[:10], write_index[:10] = a[10:20], 5000 + write_index[:10]
    for index in (one, other):
        cells = index.cells(a, write_index, pool.valid, cells=6)
        assert torch.equal(cells[:10], cells[10:20])
    assert torch.equal(one._cells, other._cells)


@pytest.mark.parametrize("bf16", [False, True])
def test_proposals_are_exact_unless_they_will_be_rejected(monkeypatch, bf16):
    monkeypatch.setattr(centres, "fast_bf16", lambda device: bf16)
    pool = random_pool(1500, clusters=10)
    norms, generator = squared_norms(pool), torch.Generator().manual_seed(0)
    chosen = centres.Centres(pool, 1300)
    chosen.append(torch.arange(1300), pool.rows(slice(0, 1300)), norms[:1300])
    index = torch.arange(1200, 1500)
    bound = norms[index] / 4
    proposals = Proposals(index=index, rows=pool.rows(index), norms=norms[index], bound=bound)
    d2 = dense_d2(proposals.rows, pool.rows(slice(0, 1300))).amin(1).minimum(bound)
    threshold = torch.rand(300, dtype=torch.float64, generator=generator) * bound
    nearest, pairs = chosen.nearest(proposals, threshold)
    exact, tolerance = d2 > threshold, 1e-4 * norms[index].double()
    assert 20 < (d2 > threshold).sum() < 280
    assert ((nearest - d2).abs() <= tolerance)[exact].all()
    assert ((nearest >= d2 - tolerance) & (nearest <= threshold + tolerance))[~exact].all()
    assert 300 * 512 < pairs < 300 * 1300
    everything, pairs = chosen.nearest(proposals, torch.full((300,), -1.0, dtype=torch.float64))
    assert torch.allclose(everything.double(), d2, rtol=1e-3, atol=float(tolerance.amax()))
    assert pairs == 300 * 1300


def test_proposals_follow_the_weights_and_never_hit_a_row_without_mass():
    pool = random_pool(5000)
    weight = torch.zeros(5000)
    weight[[7, 2047, 2048, 4999]] = torch.tensor([1.0, 2.0, 3.0, 4.0])
    uniforms = torch.rand(20_000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    drawn = propose(weight, uniforms, pool, squared_norms(pool)).index
    row = torch.arange(3).repeat(4)
    values = torch.tensor([0.0, 1.0, 2.0, 2.5, 5.0, 9.0, 0.5, 1.5, 4.0, 7.0, 8.0, 3.0], dtype=torch.float64)
    ascending = torch.tensor([[1, 1, 2, 4], [0, 2, 5, 5], [4, 4, 4, 8]], dtype=torch.float64)
    counted = torch.searchsorted(ascending[row], values[:, None], right=True).squeeze(1)
    assert torch.equal(distribution._search(ascending, row, values), counted)
    share = torch.bincount(drawn, minlength=5000) / 20_000
    assert torch.allclose(share, weight / 10, atol=0.02)
    assert set(drawn.tolist()) == {7, 2047, 2048, 4999}
