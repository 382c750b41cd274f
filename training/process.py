"""Settings of the whole process: torch's threads, the memory allocator, and Python's thread switch interval."""

from __future__ import annotations

import ctypes
import sys

import torch

from common.environment import available_cores

SWITCH_INTERVAL = 2e-4
"""Seconds for which a thread may keep the GIL while another waits for it; Python's default is 5e-3. The training step
releases the GIL at each call into torch, and may wait that long to get it back from a thread of the loader."""
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
"""Parameters of mallopt, from malloc.h."""


def set_up_process(device: torch.device, *, threads: int, processes: int) -> None:
    """Sets up this process for training on `device`.

    Args:
        threads: number of threads that torch computes with on a CPU; 0 divides the available cores among the processes.
        processes: number of processes of this run on this machine.
    """
    sys.setswitchinterval(SWITCH_INTERVAL)
    if device.type == "cuda":
        torch.cuda.set_device(device)
        # All clips of a run have the same size, so searching for the fastest algorithm pays off.
        torch.backends.cudnn.benchmark = True
    else:
        torch.set_num_threads(threads or available_cores(processes=processes))
        keep_freed_memory()


def keep_freed_memory() -> None:
    """Makes glibc's allocator keep the memory that a step frees for the next one; other C libraries are left alone.

    By default it may return the end of the heap to the system whenever a tensor is freed, which costs a quickstart step
    5,000 more page faults and 15 ms more CPU time.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:
        return
    mallopt(_M_MMAP_THRESHOLD, 32 * 2**20)  # bytes, the largest that glibc accepts
    mallopt(_M_TRIM_THRESHOLD, 2**30)
