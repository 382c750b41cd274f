"""Which threads run first when cores are scarce."""

from __future__ import annotations

import ctypes
import math
import os
import platform
import threading
import time
from contextlib import suppress

_SECONDS_A_TURN = 2e-4
"""Between two times of giving way, which costs a thread its caches."""

_SECONDS_TO_KEEP_A_CORE = 1e-2
"""Longer than what a step computes without waiting, most of the time; other programs wait as long, then get theirs."""

_SCHED_SETATTR = {"x86_64": 314, "aarch64": 274}
"""Linux's numbers of the system call, which glibc has a function for only since 2.41."""

_KEEP_POLICY = 8
"""Linux's SCHED_FLAG_KEEP_POLICY."""

_this_thread = threading.local()


def yield_to_training() -> None:
    """Lets this thread, and those that it will start, run on cores that nothing else wants at the moment.

    For loaders on a CPU, where the training step computes on all cores and stalls as a whole when a thread of it is
    held up. It cannot starve a loader: a step that waits for its batch leaves it the cores. Linux's SCHED_IDLE; it is
    below every niceness and, unlike one, never preempts.
    """
    with suppress(OSError):  # where a sandbox forbids it, loaders compete with the step
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
        _this_thread.gives_way_at = 0.0


def keep_cores() -> None:
    """Lets this thread, and those that it will start, keep a core for 10 ms, as far as nothing preempts them.

    For the training step on a CPU. By itself a turn ends after some 1.4 ms; the scheduler then gives the core even to a
    thread that yields, and looks again only at its next tick: the step stands still for up to 4 ms. Linux has this
    since 6.12; an older one takes no notice, and other systems are left as they are.
    """
    number = _SCHED_SETATTR.get(platform.machine())
    if number is None or platform.system() != "Linux":
        return
    attributes = _Attributes(
        size=ctypes.sizeof(_Attributes),
        flags=_KEEP_POLICY,
        nice=os.getpriority(os.PRIO_PROCESS, 0),
        runtime=round(_SECONDS_TO_KEEP_A_CORE * 1e9),
    )
    ctypes.CDLL(None).syscall(number, 0, ctypes.byref(attributes), 0)


class _Attributes(ctypes.Structure):
    """Linux's struct sched_attr."""

    _fields_ = (
        ("size", ctypes.c_uint32),
        ("policy", ctypes.c_uint32),
        ("flags", ctypes.c_uint64),
        ("nice", ctypes.c_int32),
        ("priority", ctypes.c_uint32),
        ("runtime", ctypes.c_uint64),
        ("deadline", ctypes.c_uint64),
        ("period", ctypes.c_uint64),
    )


def give_way() -> None:
    """Leaves the core to a training step that waits for it; for a thread that yields, between pieces of its work.

    The scheduler gives such a thread a turn now and then though the step wants to go on, and looks again only at its
    next tick, up to 4 ms later. Nothing happens if nothing waits, in other threads, or soon after the last time.
    """
    now = time.perf_counter()
    if now >= getattr(_this_thread, "gives_way_at", math.inf):
        os.sched_yield()
        _this_thread.gives_way_at = now + _SECONDS_A_TURN
