"""One process or many: set-up, one gather a step, and a word for every rank."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch.distributed.rendezvous import rendezvous

from common.environment import available_cores
from settings import ConfigError

T = TypeVar("T")

SWITCH_INTERVAL = 2e-4
"""Seconds for which a thread that runs Python may keep another waiting; Python's own is 5e-3. The step gives the
interpreter away with each call into torch, and the loader's threads take it."""
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
"""Parameters of mallopt, from malloc.h."""


@dataclass(frozen=True)
class World:
    """This process among all: `rank` of `size`, its device, and its place on this machine."""

    rank: int
    size: int
    local_rank: int
    local_size: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        return self.rank == 0


def start(device: str = "auto", threads: int = 0) -> World:
    """Joins the process group that torchrun describes in the environment; alone without torchrun.

    Also sets what belongs to the process as a whole: its GPU, or its threads and what becomes of freed memory;
    and how soon Python changes threads.

    Args:
        device: "auto" (a GPU where there is one), "cpu" or "cuda".
        threads: threads torch computes with on a CPU; 0 shares the cores among this machine's processes.

    Raises:
        ConfigError: device is "cuda" and there is none for this process.
    """
    sys.setswitchinterval(SWITCH_INTERVAL)
    local_rank, local_size = int(os.environ.get("LOCAL_RANK", 0)), int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    size = int(os.environ.get("WORLD_SIZE", 1))
    gpus = torch.cuda.device_count()
    if device == "auto":
        device = "cuda" if gpus else "cpu"
    if device == "cuda":
        if local_rank >= gpus:
            raise ConfigError(
                f"train.device=cuda, but process {local_rank} of this machine has no GPU (found {gpus}); "
                f"start torchrun with --nproc_per_node={max(gpus, 1)} or set train.device=cpu"
            )
        torch.cuda.set_device(local_rank)
        # Clips are of one size all through a run, so the fastest algorithm is looked for once.
        torch.backends.cudnn.benchmark = True
    else:
        torch.set_num_threads(threads or available_cores(processes=local_size))
        keep_freed_memory()
    if size > 1 and not dist.is_initialized():
        # gloo beside NCCL: a word between hosts must not wait for the GPU's queue.
        backend = "cpu:gloo,cuda:nccl" if device == "cuda" else "gloo"
        _join(backend, size=size, local_size=local_size)
    return World(
        rank=int(os.environ.get("RANK", 0)),
        size=size,
        local_rank=local_rank,
        local_size=local_size,
        device=torch.device(device, local_rank) if device == "cuda" else torch.device("cpu"),
    )


def keep_freed_memory() -> None:
    """Has the C library keep memory that a step frees for the next one, as far as it is glibc.

    By itself it may give the end of the heap back to the system after each tensor, as it happens to lie: a quickstart
    step then takes 5,000 page faults and 15 ms of a CPU more.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:
        return
    mallopt(_M_MMAP_THRESHOLD, 32 * 2**20)  # bytes; glibc takes no larger one
    mallopt(_M_TRIM_THRESHOLD, 2**30)


def _join(backend: str, *, size: int, local_size: int) -> None:
    """Joins the process group, on a store that no earlier attempt of torchrun has written to."""
    timeout = timedelta(minutes=10)
    restarts = os.environ.get("TORCHELASTIC_RESTART_COUNT")
    if restarts is None or size > local_size:
        # Machines count their restarts apart, so the count cannot name the attempt: docs/running.md says what to set.
        dist.init_process_group(backend, timeout=timeout)
        return
    # torchrun serves one store to all its restarts: without a name of its own, a process that starts early finds the
    # addresses of the processes that died ("Gloo connectFullMesh failed ... Connection refused").
    store, rank, world_size = next(rendezvous("env://", timeout=timeout))
    store = dist.PrefixStore(f"attempt {restarts}", store)
    dist.init_process_group(backend, store=store, rank=rank, world_size=world_size, timeout=timeout)


def stop() -> None:
    """Leaves the process group, if one was joined."""
    if dist.is_initialized():
        dist.destroy_process_group()


def gather_rows(columns: Sequence[torch.Tensor], ids: torch.Tensor) -> tuple[list[torch.Tensor], torch.Tensor]:
    """All ranks' rows, in rank order, in one collective.

    Args:
        columns: float tensors [m, C_i], detached and gathered as float32.
        ids: int64 [m].

    Returns:
        the columns as float32 [W m, C_i], and the ids as int64 [W m], equal on all ranks.
    """
    if not dist.is_initialized():
        return [column.detach().float() for column in columns], ids
    # int64 ids travel bit by bit as two float32 columns: a gather copies, it never computes.
    parts = [column.detach().float() for column in columns] + [ids.view(-1, 1).view(torch.float32)]
    local = torch.cat(parts, dim=1).contiguous()
    everyone = local.new_empty(dist.get_world_size() * local.shape[0], local.shape[1])
    dist.all_gather_into_tensor(everyone, local)
    *gathered, id_bits = everyone.split([part.shape[1] for part in parts], dim=1)
    return [part.contiguous() for part in gathered], id_bits.contiguous().view(torch.int64).view(-1)


def mean_over_ranks(values: Mapping[str, torch.Tensor | float]) -> dict[str, float]:
    """Each value's mean over all ranks, as plain floats; on a GPU this is where the host waits for the step."""
    numbers = torch.tensor([float(value) for value in values.values()], dtype=torch.float64)
    if dist.is_initialized():
        dist.all_reduce(numbers)
        numbers /= dist.get_world_size()
    return dict(zip(values, numbers.tolist(), strict=True))


def spread_over_ranks(values: Mapping[str, float]) -> dict[str, float]:
    """How far the ranks are apart, so that a straggler is seen; nothing with one process.

    Returns:
        for each `name`: `name_min`, `name_max` and `name_max_rank`, the (first) rank with the largest value.
    """
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return {}
    mine = torch.tensor([list(values.values())], dtype=torch.float64)
    everyone = mine.new_empty(dist.get_world_size(), len(values))
    dist.all_gather_into_tensor(everyone, mine)
    spread: dict[str, float] = {}
    for name, column in zip(values, everyone.unbind(dim=1), strict=True):
        slowest = int(column.argmax())
        spread |= {f"{name}_min": float(column.min()), f"{name}_max": float(column[slowest])}
        spread[f"{name}_max_rank"] = float(slowest)
    return spread


def gather_objects(value: T) -> list[T]:
    """Every rank's `value` (picklable, of any size), in rank order, on all ranks."""
    if not dist.is_initialized():
        return [value]
    everyone: list[T | None] = [None] * dist.get_world_size()
    dist.all_gather_object(everyone, value)
    return everyone  # type: ignore[return-value]


def from_main(value: T) -> T:
    """Rank 0's `value` on every rank (a small picklable Python object)."""
    if not dist.is_initialized():
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def any_rank(flag: bool) -> bool:
    """Whether `flag` holds on at least one rank; no GPU is waited for."""
    if not dist.is_initialized():
        return flag
    seen = torch.tensor([float(flag)])
    dist.all_reduce(seen, op=dist.ReduceOp.MAX)
    return bool(seen.item())
