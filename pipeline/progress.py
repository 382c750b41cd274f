"""Progress and summary of a preparation, for a terminal or a log file."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

if TYPE_CHECKING:
    from pipeline.prepare import Summary

Item = TypeVar("Item")
_LOG_SECONDS = 10.0


def show_progress(items: Iterable[Item], *, total: int) -> Iterator[Item]:
    """Passes `items` through and shows on stderr how many, how fast and for how long still."""
    console = Console(stderr=True)
    if total == 0:
        yield from items
    elif console.is_terminal:
        yield from _bar(items, total, console)
    else:
        yield from _lines(items, total, console)


def _bar(items: Iterable[Item], total: int, console: Console) -> Iterator[Item]:
    columns = (
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]:.1f}/s"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    start = time.monotonic()
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task("", total=total, rate=0.0)
        for done, item in enumerate(items, start=1):
            yield item
            progress.update(bar, completed=done, rate=done / (time.monotonic() - start))


def _lines(items: Iterable[Item], total: int, console: Console) -> Iterator[Item]:
    start = last = time.monotonic()
    for done, item in enumerate(items, start=1):
        yield item
        now = time.monotonic()
        if now - last >= _LOG_SECONDS or done == total:
            last, rate = now, done / (now - start)
            left = (total - done) / rate
            console.print(f"{done}/{total} files, {rate:.1f}/s, {left:.0f} s left", highlight=False)


def print_summary(summary: Summary, out: Path) -> None:
    """Prints what a run did and what OUT holds."""
    totals = summary.totals
    table = Table("", "count", title=f"{out}", title_justify="left")
    table.add_row("samples in the data set", f"{totals.samples:,}")
    table.add_row("  prepared by this run", f"{summary.new:,}")
    table.add_row("  hours", f"{totals.seconds / 3600:,.2f}")
    table.add_row(f"  MB in {totals.shards:,} shard(s)", f"{totals.shard_bytes / 1e6:,.1f}")
    if totals.unlabelled:
        table.add_row("  without a label", f"{totals.unlabelled:,}")
    for flag, count in sorted(totals.flagged.items()):
        table.add_row(f"  flagged {flag}", f"{count:,}")
    table.add_row("files left out (rejected.jsonl)", f"{sum(totals.rejected.values()):,}")
    for reason, count in totals.rejected.most_common():
        table.add_row(f"  {reason}", f"{count:,}")
    if summary.changed:
        table.add_row("changed since they were prepared, kept as they were", f"{summary.changed:,}")
    if summary.rows_without_file:
        table.add_row("rows of the labels file without a file", f"{summary.rows_without_file:,}")
    if summary.passed_over:
        kinds = ", ".join(suffix for suffix, _ in summary.passed_over.most_common(5))
        table.add_row(f"files of other kinds ({kinds})", f"{sum(summary.passed_over.values()):,}")
    console = Console()
    console.print(table)
    if not totals.samples:
        console.print("Nothing was usable; rejected.jsonl says why, file by file.")
