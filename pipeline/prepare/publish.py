"""Writes the manifest, rejected.jsonl and flagged.jsonl from what all parts have recorded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common.files import write_json_lines
from pipeline.prepare.attached import FILE, read_attached
from pipeline.prepare.flags import flag_entries
from pipeline.prepare.labels import Labels
from pipeline.prepare.records import index_rows, read_journal
from pipeline.prepare.sources import PackedSample
from pipeline.shards.manifest_writer import write_manifest
from settings import PrepareConfig


@dataclass(kw_only=True)
class Totals:
    """Totals of the output folder over all parts and runs.

    Attributes:
        seconds: total duration of the samples.
        unlabelled: number of samples without any label, if there are label columns.
        attached: number of samples with labels that pipeline.labels attached.
        flagged: number of samples per flag.
        flag_entries: the lines of flagged.jsonl.
        rejected: number of sources per reason.
    """

    samples: int = 0
    seconds: float = 0.0
    shards: int = 0
    shard_bytes: int = 0
    unlabelled: int = 0
    attached: int = 0
    flagged: Counter[str] = field(default_factory=Counter)
    flag_entries: list[dict[str, Any]] = field(default_factory=list)
    rejected: Counter[str] = field(default_factory=Counter)


def publish(out: Path, *, config: PrepareConfig, labels: Labels, sizes: Mapping[str, int] | None = None) -> Totals:
    """Rebuilds the manifest and the two lists from all samples and rejections that the parts have recorded so far.

    Args:
        sizes: sizes in bytes of the shards that are in an object store, by file name.
    """
    while True:
        before = _state(out)
        totals = _publish_once(out, config, labels, sizes or {})
        # If another machine has finished a shard meanwhile, what was just written may lack it.
        if _state(out) == before:
            return totals


def remove_empty_shards(out: Path) -> None:
    """Removes the shards of which no sample is left; the published manifest must not name them any more."""
    for index in (out / "index").glob("*.jsonl"):
        if index.stat().st_size == 0:
            (out / f"{index.stem}.tar").unlink(missing_ok=True)
            index.with_suffix(".sha256").unlink(missing_ok=True)


def _state(out: Path) -> list[tuple[str, int, int]]:
    """Returns names, sizes and times of the index files and the attached labels, to detect any change."""
    paths = [path for path in (out / "index").iterdir() if path.suffix != ".tmp"]
    files = [(path, path.stat()) for path in (*paths, out / FILE) if path.exists()]
    return sorted((path.name, status.st_size, status.st_mtime_ns) for path, status in files)


def _publish_once(out: Path, config: PrepareConfig, labels: Labels, stored: Mapping[str, int]) -> Totals:
    # The index of a shard whose samples were all removed is empty.
    shards = [path.stem + ".tar" for path in sorted((out / "index").glob("*.jsonl")) if path.stat().st_size]
    sizes = [stored[name] if name in stored else (out / name).stat().st_size for name in shards]
    totals = Totals(shards=len(shards), shard_bytes=sum(sizes))
    columns, attached = read_attached(out)
    columns = [*labels.columns, *(column for column in columns if column not in labels.columns)]
    items: set[str] = set()
    write_manifest(
        out,
        _rows(out, shards, labels, attached, totals, items),
        shards=shards,
        shard_bytes=sizes,
        shard_sha256=[_sha256(out, name) for name in shards],
        label_columns=columns,
        storage=config.storage,
        sample_rate=config.sample_rate,
        streams=config.streams,
    )
    _publish_rejected(out, items, totals)
    totals.flag_entries.sort(key=lambda entry: entry["source"])
    write_json_lines(out / "flagged.jsonl", totals.flag_entries)
    return totals


def _sha256(out: Path, shard: str) -> str:
    """The SHA-256 that was recorded when the shard was written; empty if there is none, as in format 1."""
    try:
        return (out / "index" / shard).with_suffix(".sha256").read_text(encoding="utf-8").partition(" ")[0]
    except FileNotFoundError:
        return ""


def _rows(
    out: Path,
    shards: list[str],
    labels: Labels,
    attached: Mapping[str, dict[str, str]],
    totals: Totals,
    items: set[str],
) -> Iterator[dict[str, Any]]:
    """Yields the manifest rows with the current labels, and adds them to `totals`, and the names of their items."""
    sources: set[str] = set()
    numbers = {name: number for number, name in enumerate(shards)}
    for name, row in index_rows(out):
        if row["source"] in sources or name not in numbers:
            continue
        sources.add(row["source"])
        items.add(PackedSample.of(name, row).item)
        row["labels"] = labels.by_source.get(row["source"], row["labels"]) | attached.get(row["source"], {})
        totals.samples += 1
        totals.seconds += row["seconds"]
        totals.unlabelled += bool(labels.columns or attached) and not any(row["labels"].values())
        totals.attached += row["source"] in attached
        totals.flagged.update(row["flags"].keys())
        totals.flag_entries += flag_entries(row["source"], row["flags"])
        yield row | {"shard": numbers[name]}


def rejected_sources(out: Path) -> set[str]:
    """Returns the files and segments that were rejected and are in no shard."""
    journals = (out / "index").glob("*.rejected")
    found = {entry["source"] for journal in journals for entry in read_journal(journal)}
    return found - {PackedSample.of(name, row).item for name, row in index_rows(out)} if found else found


def _publish_rejected(out: Path, usable: set[str], totals: Totals) -> None:
    entries: dict[str, dict[str, str]] = {}
    for journal in sorted((out / "index").glob("*.rejected")):
        for entry in read_journal(journal):
            if entry["source"] not in usable:
                kept = {"source": entry["source"], "reason": entry["reason"], "detail": entry.get("detail", "")}
                entries[entry["source"]] = kept
    totals.rejected.update(entry["reason"] for entry in entries.values())
    write_json_lines(out / "rejected.jsonl", (entries[source] for source in sorted(entries)), durable=True)
