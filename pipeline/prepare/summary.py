"""Counts of what a run of preparation did, and their table for a terminal or a log file."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from rich.table import Table

from common.console import Console
from pipeline.prepare.publish import Totals


@dataclass(kw_only=True)
class Summary:
    """What a run did, and what the output folder holds now.

    Attributes:
        prepared: number of sources prepared by this run.
        already_prepared: number of sources that were in a shard before.
        changed: number of sources modified since they were packed into a shard.
        rejected: number of sources rejected by this run, per reason.
        skipped: number of files of other kinds, per suffix.
        rows_without_file: number of rows of the labels file that match no source.
        totals: what the output folder holds now.
    """

    prepared: int = 0
    already_prepared: int = 0
    changed: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    skipped: Counter[str] = field(default_factory=Counter)
    rows_without_file: int = 0
    totals: Totals = field(default_factory=Totals)


def print_summary(summary: Summary, out: Path) -> None:
    """Prints the summary as a table."""
    totals = summary.totals
    table = Table("", "count", title=f"{out}", title_justify="left")
    table.add_row("samples in the data set", f"{totals.samples:,}")
    table.add_row("  prepared by this run", f"{summary.prepared:,}")
    table.add_row("  hours", f"{totals.seconds / 3600:,.2f}")
    table.add_row(f"  MB in {totals.shards:,} shard(s)", f"{totals.shard_bytes / 1e6:,.1f}")
    if totals.unlabelled:
        table.add_row("  without a label", f"{totals.unlabelled:,}")
    for flag, count in sorted(totals.flagged.items()):
        table.add_row(f"  flagged {flag}", f"{count:,}")
    table.add_row("files rejected (see rejected.jsonl)", f"{sum(totals.rejected.values()):,}")
    for reason, count in totals.rejected.most_common():
        table.add_row(f"  {reason}", f"{count:,}")
    if summary.changed:
        table.add_row("modified since preparation (not updated)", f"{summary.changed:,}")
    if summary.rows_without_file:
        table.add_row("rows of the labels file without a file", f"{summary.rows_without_file:,}")
    if summary.skipped:
        kinds = ", ".join(suffix for suffix, _ in summary.skipped.most_common(5))
        table.add_row(f"files of other kinds ({kinds})", f"{sum(summary.skipped.values()):,}")
    console = Console()
    console.print(table)
    if not totals.samples:
        console.print("No file was usable; rejected.jsonl gives the reason for each.")
