"""Which threads run first when cores are scarce."""

from __future__ import annotations

import math
import os
import threading
import time
from contextlib import suppress

_SECONDS_A_TURN = 2e-4
"""Between two times of giving way, which costs a thread its caches."""


_this_thread = threading.local()


def use_idle_priority() -> None:
    """Lets this thread, and those that it will start, run on cores that nothing else wants at the moment.

    For loaders on a CPU, where the training step computes on all cores and stalls as a whole when a thread of it is
    held up. It cannot starve a loader: a step that waits for its batch leaves it the cores. Linux's SCHED_IDLE; it is
    below every niceness and, unlike one, never preempts.
    """
    with suppress(OSError):  # where a sandbox forbids it, loaders compete with the step
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
        _this_thread.gives_way_at = 0.0


def give_way() -> None:
    """Leaves the core to a training step that waits for it; for a thread that yields, between pieces of its work.

    The scheduler gives such a thread a turn now and then though the step wants to go on, and looks again only at its
    next tick, up to 4 ms later. Nothing happens if nothing waits, in other threads, or soon after the last time.
    """
    now = time.perf_counter()
    if now >= getattr(_this_thread, "gives_way_at", math.inf):
        os.sched_yield()
        _this_thread.gives_way_at = now + _SECONDS_A_TURN
