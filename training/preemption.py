"""Preemption: on SIGTERM (a scheduler reclaims the node) a run saves and exits with a distinct status."""

from __future__ import annotations

import signal
from types import FrameType

from training.distributed import any_rank

EXIT_PREEMPTED = 75
"""Exit status (EX_TEMPFAIL) of a run that saved and stopped on request; --resume auto resumes it."""


class Preemption:
    """Context manager that records SIGTERM and makes all ranks agree on the step at which they stop."""

    def __init__(self) -> None:
        self._signalled = False
        self.requested = False

    def __enter__(self) -> Preemption:
        self._previous_handler = signal.signal(signal.SIGTERM, self._record)
        return self

    def __exit__(self, *exception: object) -> None:
        signal.signal(signal.SIGTERM, self._previous_handler)

    def _record(self, number: int, frame: FrameType | None) -> None:
        self._signalled = True

    def check(self) -> bool:
        """Returns whether to stop after this step; equal on all ranks, which must all call it."""
        self.requested = self.requested or any_rank(self._signalled)
        return self.requested
