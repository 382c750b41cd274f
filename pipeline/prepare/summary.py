"""Counts of what a run of preparation did, and their table for a terminal or a log file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from rich.table import Table

from common.console import Console
from common.stores import Location
from pipeline.prepare.labels import Labels
from pipeline.prepare.publish import Totals
from pipeline.prepare.segments.lists import Coverage
from settings.load import format_names, format_value

_SHOWN = 10
"""Largest number of files with lost seconds that are named."""


@dataclass(kw_only=True)
class Summary:
    """What a run did, and what the output folder holds now.

    Attributes:
        prepared: number of samples prepared by this run.
        already_prepared: number of sources that were in a shard before.
        moved: old and new name of each sample whose file has another name now.
        gone: names of the samples whose file is no longer in the source folder.
        replaced: names of the samples whose file has other content now.
        unlisted: names of the samples that have no row in the labels file any more.
        dropped: names of the samples that the annotations do not list any more.
        removed, removed_bytes: number of removed samples, and size of their tracks in the shards in bytes.
        synced: whether --sync or --sync-all was given.
        remark: note for the user that the source folder is at another path than before; may be empty.
        labels: the labels of the sources.
        coverage: what became of the rows of the annotations; None without them.
        rejected: number of files and segments rejected by this run, per reason.
        skipped: number of files of other kinds, per suffix.
        set_aside: names of damaged shards, which were moved to OUT/damaged so that their sources are prepared again.
        totals: what the output folder holds now.
    """

    prepared: int = 0
    already_prepared: int = 0
    moved: list[str] = field(default_factory=list)
    gone: list[str] = field(default_factory=list)
    replaced: list[str] = field(default_factory=list)
    unlisted: list[str] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)
    removed: int = 0
    removed_bytes: int = 0
    synced: bool = False
    remark: str = ""
    labels: Labels = field(default_factory=lambda: Labels(columns=[]))
    coverage: Coverage | None = None
    rejected: Counter[str] = field(default_factory=Counter)
    skipped: Counter[str] = field(default_factory=Counter)
    set_aside: Sequence[str] = ()
    totals: Totals = field(default_factory=Totals)

    @property
    def rows_without_file(self) -> int:
        """Number of rows of the list of labels that label no source."""
        return self.labels.rows_without_file


def print_summary(summary: Summary, out: Location) -> None:
    """Prints the summary as a table."""
    totals = summary.totals
    table = Table("", "count", title=f"{out}", title_justify="left")
    table.add_row("samples in the data set", f"{totals.samples:,}")
    table.add_row("  prepared by this run", f"{summary.prepared:,}")
    table.add_row("  hours", f"{totals.seconds / 3600:,.2f}")
    table.add_row(f"  MB in {totals.shards:,} shard(s)", f"{totals.shard_bytes / 1e6:,.1f}")
    if totals.unlabelled:
        table.add_row("  without a label", f"{totals.unlabelled:,}")
    if totals.attached:
        table.add_row("  with labels attached by pipeline.labels", f"{totals.attached:,}")
    if totals.flagged:
        sources = {entry["source"] for entry in totals.flag_entries}
        table.add_row("samples flagged (see flagged.jsonl)", f"{len(sources):,}")
    for flag, count in sorted(totals.flagged.items()):
        table.add_row(f"  flagged {flag}", f"{count:,}")
    table.add_row("files rejected (see rejected.jsonl)", f"{sum(totals.rejected.values()):,}")
    for reason, count in totals.rejected.most_common():
        table.add_row(f"  {reason}", f"{count:,}")
    if summary.set_aside:
        table.add_row("damaged shards (now in damaged/)", f"{len(summary.set_aside):,}")
    if summary.rows_without_file:
        table.add_row("rows of the list that label no file", f"{summary.rows_without_file:,}")
    if summary.coverage is not None:
        for text, count in summary.coverage.table():
            table.add_row(text, f"{count:,}")
    if summary.skipped:
        kinds = ", ".join(suffix for suffix, _ in summary.skipped.most_common(5))
        table.add_row(f"files of other kinds ({kinds})", f"{sum(summary.skipped.values()):,}")
    console = Console()
    console.print(table)
    for line in [*_changes(summary), *summary.labels.describe(), *_coverage(summary), *_lost(totals)]:
        # Lines are not wrapped, so that names can be copied.
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    if not totals.samples:
        console.print("No file was usable; rejected.jsonl gives the reason for each.")


def _changes(summary: Summary) -> Iterator[str]:
    """Yields a line for each kind of difference between the source folder or the list and the samples made before."""
    if summary.remark:
        yield summary.remark
    kinds = [
        ("moved since preparation, now under the new name", summary.moved),
        ("no longer in the source folder, " + ("removed" if summary.synced else "kept; --sync removes"), summary.gone),
        (
            "no longer in the annotations, " + ("removed" if summary.synced else "kept; --sync removes them"),
            summary.dropped,
        ),
        (
            "replaced since preparation, "
            + ("prepared again" if summary.synced else "kept with their labels; --sync prepares them again"),
            summary.replaced,
        ),
        (
            "no longer in the labels file, " + ("now without a label" if summary.synced else "kept with their labels"),
            summary.unlisted,
        ),
    ]
    for text, names in kinds:
        if names:
            more = ", ..." if len(names) > 3 else ""
            yield f"{text}: {len(names):,} ({format_names(names[:3])}{more})"
    if summary.removed:
        size = f"{summary.removed_bytes / 1e6:,.1f} MB"
        yield f"{summary.removed:,} old samples were removed; shards that still hold others keep their data ({size})"


def _coverage(summary: Summary) -> Sequence[str]:
    return summary.coverage.lines if summary.coverage is not None else ()


def _lost(totals: Totals) -> Iterator[str]:
    """Yields a line for each of the first files of which seconds are lost."""
    lost = [entry for entry in totals.flag_entries if entry["flag"] == "lost_seconds"]
    for entry in lost[:_SHOWN]:
        yield f"{format_value(entry['source'])} lost about {entry['value']} s"
    if len(lost) > _SHOWN:
        yield f"{len(lost) - _SHOWN} more files lost seconds; flagged.jsonl names them."
