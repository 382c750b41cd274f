"""Which threads run first when cores are scarce."""

from __future__ import annotations

import os
from contextlib import suppress


def yield_to_training() -> None:
    """Lets this thread, and those that it will start, run on cores that nothing else wants at the moment.

    For loaders on a CPU, where the training step computes on all cores and stalls as a whole when a thread of it is
    held up. It cannot starve a loader: a step that waits for its batch leaves it the cores. Linux's SCHED_IDLE; it is
    below every niceness and, unlike one, never preempts.
    """
    with suppress(OSError):  # where a sandbox forbids it, loaders compete with the step
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
