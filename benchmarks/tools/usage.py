"""What a process and its descendants have used, from /proc."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Usage:
    """Sums over a process and its living descendants."""

    cpu_seconds: float
    bytes_read: int
    """Through read(2) and its kin; not through mapped memory."""
    peak_bytes: int
    """Of each process's largest resident set; pages that processes share count for each."""

    def since(self, before: Usage) -> Usage:
        """What was used since then; the peak stays."""
        return Usage(self.cpu_seconds - before.cpu_seconds, self.bytes_read - before.bytes_read, self.peak_bytes)


def usage(pid: int | None = None) -> Usage:
    """Of process `pid` (this one) and its descendants; those that have ended count their CPU time alone."""
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
            found += [int(child) for child in task.read_text().split()]
    return found


def _field(path: Path, name: str) -> int:
    row = next(row for row in path.read_text().splitlines() if row.startswith(name + ":"))
    return int(row.split()[1])
