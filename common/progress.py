"""Shows the progress of a long task on a terminal or in a log file."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from common import phases
from common.console import Console

Item = TypeVar("Item")
_LOG_SECONDS = 10.0
"""Interval between two lines in a log file, in seconds."""


def show_progress(items: Iterable[Item], *, total: int, unit: str = "files") -> Iterator[Item]:
    """Yields `items` and shows their count, rate and estimated time left on stderr.

    Args:
        total: the number of items.
        unit: what the items are, in the plural.
    """
    console = Console(stderr=True)
    if total == 0:
        yield from items
    elif console.is_terminal:
        yield from _bar(items, total, console, unit)
    else:
        yield from _lines(items, total, console, unit)


def _bar(items: Iterable[Item], total: int, console: Console, unit: str) -> Iterator[Item]:
    columns = (
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.description}, {task.fields[rate]:.1f}/s"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    start = time.monotonic()
    phases.note_output(live=True)
    try:
        with Progress(*columns, console=console) as progress:
            bar = progress.add_task(unit, total=total, rate=0.0)
            for done, item in enumerate(items, start=1):
                yield item
                progress.update(bar, completed=done, rate=done / (time.monotonic() - start))
    finally:
        phases.note_output(live=False)


def _lines(items: Iterable[Item], total: int, console: Console, unit: str) -> Iterator[Item]:
    start = last = time.monotonic()
    for done, item in enumerate(items, start=1):
        yield item
        now = time.monotonic()
        if now - last >= _LOG_SECONDS or done == total:
            last, rate = now, done / (now - start)
            left = (total - done) / rate
            phases.note_output()
            console.print(f"{done}/{total} {unit}, {rate:.1f}/s, {left:.0f} s left")
