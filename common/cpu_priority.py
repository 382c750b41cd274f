"""Which threads run first when cores are scarce."""

from __future__ import annotations

import math
import os
import threading
import time
from contextlib import suppress

_YIELD_SECONDS = 2e-4
"""Minimum interval between two yields of a thread; each yield costs the thread its caches."""


_this_thread = threading.local()


def use_idle_priority() -> None:
    """Lets this thread, and those that it will start, run on cores that nothing else wants at the moment.

    For loaders on a CPU, where the training step computes on all cores and stalls as a whole when one of its threads is
    held up. It cannot starve a loader: a step that waits for its batch leaves it the cores. Linux's SCHED_IDLE; it is
    below every niceness and, unlike one, never preempts.
    """
    with suppress(OSError):  # where a sandbox forbids it, loaders compete with the step
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
        _this_thread.yields_at = 0.0


def yield_cpu() -> None:
    """Leaves the core to a training step that waits for it; for a thread of idle priority, between its tasks.

    The scheduler gives such a thread a turn now and then though the step wants the core, and looks again only at its
    next tick, up to 4 ms later. In other threads, and soon after the last yield, nothing happens.
    """
    now = time.perf_counter()
    if now >= getattr(_this_thread, "yields_at", math.inf):
        os.sched_yield()
        _this_thread.yields_at = now + _YIELD_SECONDS
