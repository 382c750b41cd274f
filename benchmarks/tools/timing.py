"""Measures the time and memory of a function and limits its threads."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faiss
import torch
from threadpoolctl import threadpool_limits

_PROCESS = Path("/proc/self")


def timed(work: Callable[[], Any], *, device: str, threads: int) -> tuple[float, float | None, Any]:
    """Runs `work` on `threads` threads of the CPU, or on the GPU.

    Returns:
        Seconds (CPU time of this process, or from CUDA events on a GPU); peak memory in GiB (of the process including
        inputs and libraries, None where the system does not report it; on a GPU, allocated by torch); the result.
    """
    if device == "cuda":
        return _timed_on_gpu(work)
    hold_threads(threads)
    _reset_peak()
    start = time.process_time()
    result = work()
    return time.process_time() - start, _peak(), result


def _timed_on_gpu(work: Callable[[], Any]) -> tuple[float, float, Any]:
    torch.cuda.reset_peak_memory_stats()
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    begin.record()
    result = work()
    end.record()
    torch.cuda.synchronize()
    return begin.elapsed_time(end) / 1e3, torch.cuda.max_memory_allocated() / 2**30, result


def hold_threads(threads: int) -> None:
    """Limits the threads of all libraries. Call it before every measurement, because loading numba undoes it."""
    os.environ["NUMBA_NUM_THREADS"] = str(threads)
    threadpool_limits(threads)
    torch.set_num_threads(threads)
    faiss.omp_set_num_threads(threads)


def _reset_peak() -> None:
    if (_PROCESS / "clear_refs").exists():
        (_PROCESS / "clear_refs").write_text("5")


def _peak() -> float | None:
    if not (_PROCESS / "status").exists():
        return None
    return int(re.search(r"VmHWM:\s+(\d+) kB", (_PROCESS / "status").read_text()).group(1)) / 2**20
