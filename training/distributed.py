"""Distributed processes: joining the group, and the collectives a run uses."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch.distributed.rendezvous import rendezvous

from settings import ConfigError
from training.process import set_up_process

T = TypeVar("T")

ALL_GATHER = "all_gather_single" if hasattr(dist, "all_gather_single") else "all_gather_into_tensor"
"""The name of torch.distributed's gather into one tensor; the second is the one before torch 2.14."""


@dataclass(frozen=True)
class World:
    """This process and its group: `rank` of `size`, `local_rank` of `local_size` on this machine, and the device."""

    rank: int
    size: int
    local_rank: int
    local_size: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        return self.rank == 0


def start(device: str = "auto", threads: int = 0) -> World:
    """Sets up this process (see `training.process`) and joins the process group that torchrun describes.

    Without torchrun's environment variables the process trains alone.

    Args:
        device: "auto" (a GPU if there is one), "cpu" or "cuda".
        threads: number of threads that torch computes with on a CPU; 0 divides the available cores among this
            machine's processes.

    Raises:
        ConfigError: device is "cuda" and this process has no GPU.
    """
    local_rank, local_size = int(os.environ.get("LOCAL_RANK", 0)), int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    size = int(os.environ.get("WORLD_SIZE", 1))
    gpus = torch.cuda.device_count()
    if device == "auto":
        device = "cuda" if gpus else "cpu"
    if device == "cuda" and local_rank >= gpus:
        raise ConfigError(
            f"train.device=cuda, but process {local_rank} of this machine has no GPU (found {gpus}); "
            f"start torchrun with --nproc_per_node={max(gpus, 1)} or set train.device=cpu"
        )
    world = World(
        rank=int(os.environ.get("RANK", 0)),
        size=size,
        local_rank=local_rank,
        local_size=local_size,
        device=torch.device(device, local_rank) if device == "cuda" else torch.device("cpu"),
    )
    set_up_process(world.device, threads=threads, processes=local_size)
    if size > 1 and not dist.is_initialized():
        # gloo in addition to NCCL: small messages between hosts must not wait for the GPU's queue.
        backend = "cpu:gloo,cuda:nccl" if device == "cuda" else "gloo"
        _join(backend, size=size, local_size=local_size)
    return world


def _join(backend: str, *, size: int, local_size: int) -> None:
    """Joins the process group through a store that no earlier attempt of torchrun has written to."""
    timeout = timedelta(minutes=10)
    restarts = os.environ.get("TORCHELASTIC_RESTART_COUNT")
    if restarts is None or size > local_size:
        # Each machine counts its own restarts, so the counts may differ; docs/running.md says what to set instead.
        dist.init_process_group(backend, timeout=timeout)
        return
    # torchrun keeps one store across restarts: without a prefix per attempt, a process that starts early finds the
    # addresses of processes that died ("Gloo connectFullMesh failed ... Connection refused").
    store, rank, world_size = next(rendezvous("env://", timeout=timeout))
    store = dist.PrefixStore(f"attempt {restarts}", store)
    dist.init_process_group(backend, store=store, rank=rank, world_size=world_size, timeout=timeout)


def stop() -> None:
    """Leaves the process group, if one was joined."""
    if dist.is_initialized():
        dist.destroy_process_group()


def gather_tensor(rows: torch.Tensor) -> torch.Tensor:
    """Gathers every rank's rows [m, ...], in rank order: [W m, ...] for W ranks, equal on all ranks."""
    everyone = rows.new_empty(dist.get_world_size() * rows.shape[0], *rows.shape[1:])
    getattr(dist, ALL_GATHER)(everyone, rows.contiguous())
    return everyone


def gather_rows(columns: Sequence[torch.Tensor], ids: torch.Tensor) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Gathers all ranks' rows, in rank order, in one collective.

    Args:
        columns: float tensors [m, C_i], detached and gathered as float32.
        ids: int64 [m].

    Returns:
        The columns as float32 [W m, C_i] and the ids as int64 [W m] for W ranks, equal on all ranks.
    """
    if not dist.is_initialized():
        return [column.detach().float() for column in columns], ids
    # The bits of each int64 id are sent as two float32 numbers, which is safe because a gather only copies.
    parts = [column.detach().float() for column in columns] + [ids.view(-1, 1).view(torch.float32)]
    *gathered, id_bits = gather_tensor(torch.cat(parts, dim=1)).split([part.shape[1] for part in parts], dim=1)
    return [part.contiguous() for part in gathered], id_bits.contiguous().view(torch.int64).view(-1)


def mean_over_ranks(values: Mapping[str, torch.Tensor | float]) -> dict[str, float]:
    """Returns each value's mean over all ranks as a float; on a GPU this is where the host waits for the step."""
    numbers = torch.tensor([float(value) for value in values.values()], dtype=torch.float64)
    if dist.is_initialized():
        dist.all_reduce(numbers)
        numbers /= dist.get_world_size()
    return dict(zip(values, numbers.tolist(), strict=True))


def spread_over_ranks(values: Mapping[str, float]) -> dict[str, float]:
    """Compares each value across ranks, which shows stragglers.

    Returns:
        `name_min`, `name_max` and `name_max_rank` (the first rank with the largest value) for each `name`; empty with
        one process.
    """
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return {}
    mine = torch.tensor([list(values.values())], dtype=torch.float64)
    everyone = gather_tensor(mine)
    spread: dict[str, float] = {}
    for name, column in zip(values, everyone.unbind(dim=1), strict=True):
        slowest = int(column.argmax())
        spread |= {f"{name}_min": float(column.min()), f"{name}_max": float(column[slowest])}
        spread[f"{name}_max_rank"] = float(slowest)
    return spread


def gather_objects(value: T) -> list[T]:
    """Returns every rank's `value` (picklable, of any size), in rank order, on all ranks."""
    if not dist.is_initialized():
        return [value]
    everyone: list[T | None] = [None] * dist.get_world_size()
    dist.all_gather_object(everyone, value)
    return everyone  # type: ignore[return-value]


def from_main(value: T) -> T:
    """Returns rank 0's `value` (a small picklable object) on every rank."""
    if not dist.is_initialized():
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def any_rank(flag: bool) -> bool:
    """Returns whether `flag` is true on at least one rank; does not wait for a GPU."""
    if not dist.is_initialized():
        return flag
    seen = torch.tensor([float(flag)])
    dist.all_reduce(seen, op=dist.ReduceOp.MAX)
    return bool(seen.item())
