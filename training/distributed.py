"""Distributed processes: joining the group, and the collectives a run uses."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist

from common.phases import begin
from common.signals import received
from settings import ConfigError
from training.process import set_up_process
from training.ranks.errors import RankError
from training.ranks.heartbeat import Heartbeat
from training.ranks.roll_call import address, open_store, roll_call, whole_number

T = TypeVar("T")

ALL_GATHER = "all_gather_single" if hasattr(dist, "all_gather_single") else "all_gather_into_tensor"
"""Name of torch.distributed's all-gather into a single tensor, which torch 2.14 renamed."""
TIMEOUT = 300.0
"""Default of train.timeout_seconds."""
_LOST = ("gloo", "nccl", "connection closed", "connection reset", "connection refused", "timed out", "broken pipe")
"""Substrings of the error messages of collectives that fail because another process is missing."""

_heartbeat: Heartbeat | None = None


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


def start(device: str = "auto", threads: int = 0, timeout: float = TIMEOUT) -> World:
    """Sets up this process (see `training.process`) and joins the process group that torchrun describes.

    Without torchrun's environment variables the process trains alone.

    Args:
        device: "auto" (a GPU if there is one), "cpu" or "cuda".
        threads: number of threads that torch computes with on a CPU; 0 divides the available cores among this
            machine's processes.
        timeout: seconds to wait for another process, at the start and in a collective.

    Raises:
        ConfigError: device is "cuda" and this process has no GPU, or torchrun's environment variables are invalid.
        RankError: not all processes have started within `timeout` seconds.
    """
    local_rank, local_size = whole_number("LOCAL_RANK", 0), max(1, whole_number("LOCAL_WORLD_SIZE", 1))
    rank, size = whole_number("RANK", 0), whole_number("WORLD_SIZE", 1)
    if size > 1 and rank >= size:
        raise ConfigError(f"RANK={rank} must be less than WORLD_SIZE={size}: start the processes with torchrun")
    gpus = torch.cuda.device_count()
    if device == "auto":
        device = "cuda" if gpus else "cpu"
    if device == "cuda" and local_rank >= gpus:
        raise ConfigError(
            f"train.device=cuda, but process {local_rank} of this machine has no GPU (found {gpus}); "
            f"start torchrun with --nproc_per_node={max(gpus, 1)} or set train.device=cpu"
        )
    world = World(
        rank=rank if size > 1 else 0,
        size=max(1, size),
        local_rank=local_rank,
        local_size=local_size,
        device=torch.device(device, local_rank) if device == "cuda" else torch.device("cpu"),
    )
    set_up_process(world.device, threads=threads, processes=local_size)
    if size > 1 and not dist.is_initialized():
        _join(world, timeout)
    return world


def _join(world: World, timeout: float) -> None:
    """Joins the process group through a store that no earlier attempt of torchrun has written to."""
    global _heartbeat
    begin(f"waiting for all {world.size} processes")
    store = open_store(rank=world.rank, size=world.size, timeout=timeout)
    restarts = os.environ.get("TORCHELASTIC_RESTART_COUNT")
    attempt = ""
    # Each machine counts its own restarts, so the counts may differ; docs/running.md says what to set instead.
    if restarts is not None and world.size == world.local_size:
        # torchrun keeps one store across restarts: without a prefix per attempt, a process that starts early finds the
        # addresses of processes that died ("Gloo connectFullMesh failed ... Connection refused").
        attempt = f"attempt {restarts}"
    store = dist.PrefixStore(attempt, store) if attempt else store
    roll_call(store, rank=world.rank, size=world.size, timeout=timeout)
    # gloo in addition to NCCL: small messages between hosts must not wait for the GPU's queue. When NCCL times out, it
    # ends the process with pages of output; with a minute more, the heartbeat ends it first and names the hung process.
    gpu = world.device.type == "cuda"
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if gpu else "gloo",
        store=dist.PrefixStore("group", store),
        rank=world.rank,
        world_size=world.size,
        timeout=timedelta(seconds=timeout + 60 * gpu),
    )
    host, port = address(world.size)
    _heartbeat = Heartbeat(host, port, prefix=attempt, rank=world.rank, size=world.size, timeout=timeout)


def stop() -> None:
    """Leaves the process group, if one was joined."""
    global _heartbeat
    if _heartbeat is not None:
        _heartbeat.stop()
        _heartbeat = None
    if dist.is_initialized():
        dist.destroy_process_group()


def beat(doing: str) -> None:
    """Reports progress: `doing` is what this process does from now on, for the others and for the next sign of life."""
    begin(doing, quietly=True)
    if _heartbeat is not None:
        _heartbeat.beat(doing)


def say_farewell(reason: str) -> None:
    """Tells the other processes why this one ends with an error."""
    if _heartbeat is not None:
        _heartbeat.say_farewell(reason)


@contextmanager
def lost_ranks_named() -> Iterator[None]:
    """Raises RankError, which names the process at fault, if a collective fails because another process is missing."""
    try:
        yield
    except RankError:
        raise
    except RuntimeError as error:
        if not dist.is_initialized() or not _is_lost_rank(error):
            raise
        signalled = received()
        reason = _heartbeat.explain() if _heartbeat is not None else str(error).strip().splitlines()[0]
        raise RankError(f"another process of this run has failed: {reason}", after_signal=signalled) from error


def _is_lost_rank(error: RuntimeError) -> bool:
    return isinstance(error, dist.DistError) or any(part in str(error).lower() for part in _LOST)


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
    return bool(largest([float(flag)])[0])


def largest(values: Sequence[float]) -> list[float]:
    """Returns the largest of all ranks' values, position by position; does not wait for a GPU."""
    if not dist.is_initialized():
        return list(values)
    seen = torch.tensor(values, dtype=torch.float64)
    dist.all_reduce(seen, op=dist.ReduceOp.MAX)
    return seen.tolist()
