"""Runs a function in several processes that form a gloo group."""

from __future__ import annotations

import multiprocessing
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

# All processes are forked from one that has imported these modules, because importing torch and DALI takes seconds.
multiprocessing.set_forkserver_preload(["torch", "nvidia.dali", "train"])


def run(function: Callable[..., Any], size: int, folder: Path, *arguments: Any) -> list[Any]:
    """Calls `function(rank, size, *arguments)` in `size` gloo processes and returns the results in rank order."""
    mp.start_processes(_entry, args=(size, str(folder), function, arguments), nprocs=size, start_method="forkserver")
    return [torch.load(folder / f"result-{size}-{rank}.pt", weights_only=False) for rank in range(size)]


def _entry(rank: int, size: int, folder: str, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    warnings.simplefilter("error")
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    rendezvous = Path(folder) / f"rendezvous-{size}"
    dist.init_process_group("gloo", init_method=rendezvous.as_uri(), rank=rank, world_size=size)
    try:
        torch.save(function(rank, size, *arguments), Path(folder) / f"result-{size}-{rank}.pt")
    finally:
        dist.destroy_process_group()
