"""How many batches are read at the same time, from the time that reads wait for disks and servers."""

from __future__ import annotations

import math

_MOST_CLIPS = 2048
"""Largest number of clips in the batches that are read at the same time, which bounds their memory."""
MOST_BATCHES = 32
"""Largest number of batches that are read at the same time."""
_WEIGHT = 0.2
"""Weight of the newest measurement in the running means."""
_UNNOTICEABLE = 0.002
"""Waiting times per batch up to this, in seconds, do not count as waiting."""


class BatchesAhead:
    """Chooses the number of batches in flight as latency times rate (Little's law).

    Reads that do not wait, because the bytes are in memory, get `least` batches: more would only take memory.

    Args:
        least: number of batches in flight that the settings ask for.
        clips: clips per batch.
        is_remote: whether the bytes come from a server, before any time has been measured.
    """

    def __init__(self, *, least: int, clips: int, is_remote: bool) -> None:
        self._least = least
        self._most = max(least, min(MOST_BATCHES, _MOST_CLIPS // clips))
        self._waiting, self._between = (0.1, 0.05) if is_remote else (0.0, 0.0)

    def note_read(self, waited: float) -> None:
        """Notes for how many seconds the reading of a batch has waited."""
        self._waiting += _WEIGHT * (waited - self._waiting)

    def note_use(self, seconds: float) -> None:
        """Notes the time from one batch to the next, in seconds, without the time that was spent waiting for reads."""
        self._between += _WEIGHT * (seconds - self._between)

    @property
    def waits(self) -> bool:
        """Whether reading takes longer than the copying of bytes in memory."""
        return self._waiting > _UNNOTICEABLE

    @property
    def count(self) -> int:
        """Number of batches that should be in flight."""
        if not self.waits:
            return self._least
        needed = math.ceil(self._waiting / max(self._between, 1e-6)) + 1
        return max(self._least, min(self._most, needed))
