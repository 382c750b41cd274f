"""The error of a run whose processes cannot work together."""

from __future__ import annotations


class RankError(RuntimeError):
    """Raised when another process of the run is missing, has ended or hangs; the message names it and its host.

    Args:
        message: what is wrong.
        after_signal: the signal that had asked this process to stop before that; 0 without one.
    """

    def __init__(self, message: str, *, after_signal: int = 0) -> None:
        super().__init__(message)
        self.after_signal = after_signal
