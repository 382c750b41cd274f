"""SIGTERM (a scheduler takes the node back) becomes a save and a distinct exit status."""

from __future__ import annotations

import signal
from types import FrameType

from training.distributed import any_rank

EXIT_PREEMPTED = 75
"""EX_TEMPFAIL: stopped on request, saved, start the same command again to go on."""


class Preemption:
    """While entered, notes SIGTERM and lets all ranks agree on the step they stop at."""

    def __init__(self) -> None:
        self._signalled = False
        self.requested = False

    def __enter__(self) -> Preemption:
        self._before = signal.signal(signal.SIGTERM, self._note)
        return self

    def __exit__(self, *exception: object) -> None:
        signal.signal(signal.SIGTERM, self._before)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._signalled = True

    def check(self) -> bool:
        """Whether to stop after this step; the same on all ranks."""
        self.requested = self.requested or any_rank(self._signalled)
        return self.requested
