"""Peak memory of a process, and advice when memory runs out."""

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
    """Peak memory of a process; `str` gives a readable form."""

    bytes: int
    """Peak bytes of GPU memory in tensors, or of resident main memory without a GPU."""
    total: int
    """Total bytes of the device's memory."""
    reserved: int = 0
    """Peak bytes of GPU memory reserved by torch, in tensors or cached; 0 without a GPU."""

    def __str__(self) -> str:
        if self.reserved:
            return (
                f"{self.bytes / GIB:.2f} GiB of GPU memory in tensors ({self.reserved / GIB:.2f} GiB reserved) "
                f"of {self.total / GIB:.1f} GiB"
            )
        return f"{self.bytes / GIB:.2f} GiB resident of {self.total / GIB:.1f} GiB"


def peak_memory(device: torch.device) -> PeakMemory:
    """Returns this process's peak memory on `device` (main memory for a CPU)."""
    if device.type == "cuda":
        return PeakMemory(
            bytes=torch.cuda.max_memory_allocated(device),
            total=torch.cuda.get_device_properties(device).total_memory,
            reserved=torch.cuda.max_memory_reserved(device),
        )
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return PeakMemory(bytes=resident, total=os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))


def is_out_of_memory(error: BaseException) -> bool:
    """Returns whether an error means that memory ran out; torch on a CPU and DALI raise a RuntimeError for it."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(phrase in str(error) for phrase in OUT_OF_MEMORY)


def explain_out_of_memory(config: Config, error: BaseException) -> str:
    """Describes the peak memory and lists the settings that reduce it, in the order to try them."""
    # The device is inferred from torch, because memory may run out before the process has a World.
    device = torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_initialized() else torch.device("cpu")
    processes = dist.get_world_size() if dist.is_initialized() else 1
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    advice = "".join(f"\n  {line}" for line in _advice(config, processes))
    return (
        f"out of memory (peak {peak_memory(device)}): {reason}\n"
        f"settings that reduce memory use, in the order to try:{advice}"
    )


def _advice(config: Config, processes: int) -> list[str]:
    """Lists settings that can still be lowered, those that do not change the result first."""
    train, clip, pool = config.train, config.clip, config.pool
    share = train.batch_size // processes
    lines = []
    if not train.recompute:
        lines.append("train.recompute=true (now false): about a third more time")
    if config.data.prefetch > 1:
        lines.append(f"data.prefetch=1 (now {config.data.prefetch}): the step may wait for data")
    lines.append(f"more processes, each on its own device (now {processes}, {share} clips each)")
    # BatchNorm cannot compute statistics of a part with a single clip.
    if share >= 4 * train.accumulate:
        lines.append(
            f"train.accumulate={2 * train.accumulate} (now {train.accumulate}): one more forward pass, and BatchNorm "
            "statistics are those of the parts"
        )
    if train.precision == "fp32":
        lines.append("train.precision=bf16 (now fp32): less precise")
    lines.append(
        f"clip.frames={max(clip.frames // 2, 1)} (now {clip.frames}), clip.size (now {clip.size}): the model sees less"
    )
    unit = clip.per_sample * processes
    smaller = train.batch_size // 2 // unit * unit
    if smaller >= 2:
        lines.append(f"train.batch_size={smaller} (now {train.batch_size} over all processes)")
    lines.append(f"pool.size={max(pool.size // 2, 1)} (now {pool.size}): if memory ran out while selecting negatives")
    return lines
