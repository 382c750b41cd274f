"""The benchmark runs, compares with the oracle and reports what it extrapolated."""

import json

import pytest
import torch

from benchmarks.peers.samplers import BASELINES, Baseline
from benchmarks.sampling import main
from sampler.base import Candidates
from tests.pretend_gpu import GpuTensor, PretendGpu
from tests.sampler.distribution import random_pool


def run(tmp_path, *arguments):
    main([*arguments, "--device", "cpu", "--seeds", "1", "--json", str(tmp_path / "out.json")])
    return {record["backend"]: record for record in json.loads((tmp_path / "out.json").read_text())["records"]}


def test_records_are_compared_with_the_sequential_oracle(tmp_path):
    records = run(tmp_path, "--sizes", "300x10", "--quality", "--backends", "kmeanspp_sequential", "kmeanspp", "badge")
    assert records["kmeanspp_sequential"]["times_faster"] == 1.0
    assert records["kmeanspp"]["phi_ratio"] > 0
    assert records["badge"]["stats"]["distinct"] == 10


def test_an_extrapolated_oracle_is_marked(tmp_path):
    records = run(tmp_path, "--sizes", "300x10", "--sequential-picks", "4", "--backends", "kmeanspp_sequential", "fifo")
    assert records["kmeanspp_sequential"]["extrapolated_from_picks"] == 4
    assert "extrapolated_from_picks" not in records["fifo"]


@pytest.mark.parametrize("name", sorted(set(BASELINES) - {"facility_location"}))
def test_every_baseline_picks_k_rows(name):
    baseline, pool = Baseline(pick=BASELINES[name]), random_pool(60)
    picks = baseline.select(pool, 5, generator=torch.Generator().manual_seed(0))
    assert len(picks.indices.unique()) == 5
    with PretendGpu():
        columns = {
            name: None if column is None else column.as_subclass(GpuTensor) for name, column in vars(pool).items()
        }
        there = baseline.select(Candidates(**columns), 5, generator=torch.Generator().manual_seed(0))
        assert there.indices.is_cuda
        assert torch.equal(there.indices.cpu(), picks.indices)
