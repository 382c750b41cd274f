"""How much memory a process took at its peak, and what to turn when there is not enough."""

from __future__ import annotations

import os
import resource
from dataclasses import dataclass

import torch
import torch.distributed as dist

from pipeline.load.dali_runner import OUT_OF_MEMORY as DALI_OUT_OF_MEMORY
from settings import Config

GIB = 2**30
OUT_OF_MEMORY = (
    "can't allocate memory",  # torch on a CPU
    "out of memory",  # CUDA
    "CUBLAS_STATUS_ALLOC_FAILED",
    *DALI_OUT_OF_MEMORY,
)


@dataclass(frozen=True)
class PeakMemory:
    """The most a process has held; `str` of it is for people."""

    bytes: int
    """Of GPU memory in tensors, or of resident main memory without a GPU."""
    total: int
    """Bytes that the device has."""
    reserved: int = 0
    """Bytes of GPU memory that torch took, in tensors or not; 0 without a GPU."""

    def __str__(self) -> str:
        if self.reserved:
            return (
                f"{self.bytes / GIB:.2f} GiB of GPU memory in tensors ({self.reserved / GIB:.2f} GiB reserved) "
                f"of {self.total / GIB:.1f} GiB"
            )
        return f"{self.bytes / GIB:.2f} GiB resident of {self.total / GIB:.1f} GiB"


def peak_memory(device: torch.device) -> PeakMemory:
    """What this process has held at most on `device` (main memory for a CPU)."""
    if device.type == "cuda":
        return PeakMemory(
            bytes=torch.cuda.max_memory_allocated(device),
            total=torch.cuda.get_device_properties(device).total_memory,
            reserved=torch.cuda.max_memory_reserved(device),
        )
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return PeakMemory(bytes=resident, total=os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out; torch on a CPU and DALI have no type of their own for it."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(phrase in str(error) for phrase in OUT_OF_MEMORY)


def explain_out_of_memory(config: Config, error: BaseException) -> str:
    """What was used at the peak, and the settings that need less, in the order to try them."""
    # Asked for here, because the error may come before a world is known.
    device = torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_initialized() else torch.device("cpu")
    processes = dist.get_world_size() if dist.is_initialized() else 1
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    knobs = "".join(f"\n  {knob}" for knob in _knobs(config, processes))
    return f"out of memory (peak {peak_memory(device)}): {reason}\nwhat needs less, in the order to try:{knobs}"


def _knobs(config: Config, processes: int) -> list[str]:
    """Those that can still be turned; first the ones that leave what is learned as it is."""
    train, clip, pool = config.train, config.clip, config.pool
    share = train.batch_size // processes
    knobs = []
    if not train.recompute:
        knobs.append("train.recompute=true (now false): about a third more time")
    if config.data.prefetch > 1:
        knobs.append(f"data.prefetch=1 (now {config.data.prefetch}): the step may wait for data")
    knobs.append(f"more processes, each on a device of its own (now {processes}, {share} clips each)")
    # BatchNorm has no statistics of a part that is a single clip.
    if share >= 4 * train.accumulate:
        knobs.append(
            f"train.accumulate={2 * train.accumulate} (now {train.accumulate}): one more forward pass, and BatchNorm "
            "sees the parts"
        )
    if train.precision == "fp32":
        knobs.append("train.precision=bf16 (now fp32): fewer digits")
    knobs.append(f"clip.frames={max(clip.frames // 2, 1)} (now {clip.frames}), clip.size (now {clip.size}): sees less")
    if train.batch_size // 2 >= max(2, processes):
        knobs.append(f"train.batch_size={train.batch_size // 2} (now {train.batch_size} over all processes)")
    knobs.append(f"pool.size={max(pool.size // 2, 1)} (now {pool.size}): if it ran out while negatives were chosen")
    return knobs
