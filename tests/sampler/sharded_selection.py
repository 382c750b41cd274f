"""Run by test_sharded.py in every rank: saves what this rank selected."""

from __future__ import annotations

import sys

import torch
import torch.distributed as dist

from sampler import build_sampler
from sampler.d2 import dense_bounds, proposals
from tests.sampler.distribution import random_pool


def main(folder: str, chunk: int) -> None:
    dist.init_process_group("gloo")
    torch.set_num_threads(1)
    proposals.CHUNK = dense_bounds.CHUNK = chunk
    collectives = count_collectives()
    picks = {}
    for precision in ("fp32", "bf16"):
        sampler = build_sampler("kmeanspp", {"precision": precision, "sharded": True})
        pool = random_pool(3000, clusters=30)
        pool.a[17] = torch.nan
        before = len(collectives)
        selection = sampler.select(pool, 100, generator=torch.Generator().manual_seed(4))
        rounds = selection.stats["rounds"]
        picks[precision] = (selection.indices, len(collectives) - before, rounds)
    torch.save(picks, f"{folder}/rank{dist.get_rank()}of{dist.get_world_size()}.pt")
    dist.destroy_process_group()


def count_collectives() -> list[str]:
    calls: list[str] = []
    for name in ("all_gather", "all_reduce"):
        original = getattr(dist, name)

        def counted(*arguments, _original=original, _name=name, **options):
            calls.append(_name)
            return _original(*arguments, **options)

        setattr(dist, name, counted)
    return calls


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
