"""CPU priority of a loader's threads, which share the cores with a training step on the CPU."""

from __future__ import annotations

import math
import os
import threading
import time
from contextlib import suppress

_YIELD_SECONDS = 2e-4
"""Minimum interval in seconds between two yields of a thread; each yield costs the thread its caches."""

_this_thread = threading.local()


def use_idle_priority() -> None:
    """Gives this thread, and those that it starts later, idle priority: they run only on cores that are otherwise idle.

    It is meant for loaders in training on a CPU, where the training step computes on all cores and stalls if one of its
    threads is delayed. The loader does not starve, because a step that waits for its batch leaves the cores idle. The
    policy is Linux's SCHED_IDLE, which ranks below every nice level and never preempts other threads.
    """
    with suppress(OSError):  # if a sandbox forbids the policy, the loader competes with the step
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
        _this_thread.yields_at = 0.0


def yield_cpu() -> None:
    """Yields the core to a training step that waits for it; a thread of idle priority calls this between its tasks.

    The scheduler sometimes runs an idle-priority thread although the step needs the core, and does not reconsider until
    its next tick, up to 4 ms later. The call has no effect in other threads, or within `_YIELD_SECONDS` of a yield.
    """
    now = time.perf_counter()
    if now >= getattr(_this_thread, "yields_at", math.inf):
        os.sched_yield()
        _this_thread.yields_at = now + _YIELD_SECONDS
