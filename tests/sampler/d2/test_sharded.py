"""Rows over ranks: the same picks as one process, whatever the number of ranks."""

import os
import subprocess
import sys
from pathlib import Path

import torch

from sampler import build_sampler
from tests.sampler.distribution import random_pool

ROOT = Path(__file__).parents[3]
CHUNK = 256


def test_every_rank_picks_what_a_single_process_picks(tmp_path, monkeypatch):
    ranks = int(os.environ.get("CMACC_TEST_RANKS", "4"))
    monkeypatch.setattr("sampler.d2.proposals.CHUNK", CHUNK)
    monkeypatch.setattr("sampler.d2.dense_bounds.CHUNK", CHUNK)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}"]
    command += ["-m", "tests.sampler.sharded_selection", str(tmp_path), str(CHUNK)]
    finished = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=100
    )
    assert finished.returncode == 0, finished.stderr[-2000:]
    for precision in ("fp32", "bf16"):
        pool = random_pool(3000, clusters=30)
        pool.a[17] = torch.nan
        sampler = build_sampler("kmeanspp", {"precision": precision})
        expected = sampler.select(pool, 100, generator=torch.Generator().manual_seed(4)).indices
        for rank in range(ranks):
            indices, collectives, rounds = torch.load(tmp_path / f"rank{rank}of{ranks}.pt")[precision]
            assert torch.equal(indices, expected)
            # One to gather the norms, two for the first pick, two a round.
            assert collectives == 1 + 2 + 2 * rounds
