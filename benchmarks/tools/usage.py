"""CPU time, bytes read and memory of a process and its descendants, from /proc."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")
"""Clock ticks per second in /proc."""


@dataclass(frozen=True)
class Usage:
    """Sums over a process and its descendants.

    Of descendants that have ended, CPU time and bytes read count once they were waited for; memory does not count.
    """

    cpu_seconds: float
    bytes_read: int
    """Bytes read by read(2) and similar calls, not through mapped memory."""
    peak_bytes: int
    """Sum of the processes' peak resident sets; shared pages count once per process."""

    def since(self, before: Usage) -> Usage:
        """Usage since `before`; the peak is still that of the processes' whole lifetime."""
        return Usage(self.cpu_seconds - before.cpu_seconds, self.bytes_read - before.bytes_read, self.peak_bytes)


def usage(pid: int | None = None) -> Usage:
    """Usage of process `pid` (default: this one) and its descendants."""
    cpu, read, peak = 0.0, 0, 0
    for process in _tree(pid or os.getpid()):
        folder = Path(f"/proc/{process}")
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            cpu += sum(int(ticks) for ticks in fields[11:15]) / TICKS
            read += _field(folder / "io", "rchar")
            peak += 1024 * _field(folder / "status", "VmHWM")
        except (FileNotFoundError, ProcessLookupError):
            continue
    return Usage(cpu, read, peak)


def _tree(pid: int) -> list[int]:
    found = [pid]
    for process in found:
        for task in Path(f"/proc/{process}/task").glob("*/children"):
            with suppress(FileNotFoundError, ProcessLookupError):  # the thread has ended
                found += [int(child) for child in task.read_text().split()]
    return found


def _field(path: Path, name: str) -> int:
    """A number of a file in /proc; 0 if it is missing, as the memory of a process that was not yet waited for is."""
    rows = (row.split() for row in path.read_text().splitlines())
    return next((int(row[1]) for row in rows if row[:1] == [f"{name}:"]), 0)
