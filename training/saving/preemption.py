"""Preemption: on SIGTERM (a scheduler reclaims the node) or Ctrl-C a run saves and exits with a distinct status."""

from __future__ import annotations

import signal
from contextlib import ExitStack

from common import signals
from training.distributed import largest

_URGENCY = (0, signal.SIGTERM, signal.SIGINT)
"""If ranks have received different signals, they agree on the last one of these."""


class Stopped(Exception):
    """Raised between two steps, on all ranks at the same one, if the run was asked to stop."""


class Preemption:
    """Context manager that records SIGTERM and Ctrl-C and makes all ranks agree on the step at which they stop."""

    def __init__(self) -> None:
        self._context = ExitStack()
        self.signal = 0
        """The signal that the ranks have agreed on; 0 before that."""

    def __enter__(self) -> Preemption:
        self._context.enter_context(signals.recorded())
        return self

    def __exit__(self, *exception: object) -> None:
        self._context.close()

    @property
    def requested(self) -> bool:
        """Whether all ranks have agreed to stop."""
        return self.signal != 0

    @property
    def signalled(self) -> bool:
        """Whether this process, perhaps not all, was asked to stop."""
        return self.requested or signals.received() != 0

    def check(self, *, wish: bool = False) -> bool:
        """Makes the ranks agree on whether to stop now; they must all call it.

        Args:
            wish: any other request of this rank (such as to retry saving), which is sent in the same collective.

        Returns:
            Whether `wish` is true on at least one rank.
        """
        urgency, wished = largest([float(_URGENCY.index(signals.received())), float(wish)])
        self.signal = self.signal or _URGENCY[int(urgency)]
        return bool(wished)
