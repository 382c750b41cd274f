"""Writes the manifest, rejected.jsonl and flagged.jsonl from what all parts have recorded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from common.files import write_json_lines
from pipeline.prepare.attached import FILE, read_attached
from pipeline.prepare.flags import flag_entries
from pipeline.prepare.labels import Labels
from pipeline.prepare.records import index_rows, read_index, read_journal, read_packed
from pipeline.prepare.sources import PackedSample
from pipeline.shards.index.earlier import Earlier, earlier_rows, forget, index_digests, remember
from pipeline.shards.index.files import index_files
from pipeline.shards.index.merging import RowBlock, SameSource, find_source
from pipeline.shards.index.packed_rows import PackedRows
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
    for index in index_files(out):
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
    indexes = [path for path in index_files(out) if path.stat().st_size]
    columns, attached = read_attached(out)
    columns = [*labels.columns, *(column for column in columns if column not in labels.columns)]
    earlier = None
    # Of windows, the index files say to which file or segment they belong.
    if not (labels.by_source or attached or config.windows):
        recipe = {"label_columns": columns, "storage": asdict(config.storage), "streams": config.streams}
        earlier = earlier_rows(out, indexes, recipe | {"sample_rate": config.sample_rate})
    try:
        return _publish_rows(
            out, indexes, columns, _Reader(labels, attached, earlier, windows=bool(config.windows)), config, stored
        )
    except SameSource:
        return _publish_rows(
            out, indexes, columns, _Reader(labels, attached, None, windows=bool(config.windows)), config, stored
        )


def _publish_rows(
    out: Path,
    indexes: Sequence[Path],
    columns: Sequence[str],
    reader: _Reader,
    config: PrepareConfig,
    stored: Mapping[str, int],
) -> Totals:
    shards, digests, earlier = [f"{path.stem}.tar" for path in indexes], index_digests(indexes), reader.earlier
    sizes = [stored[name] if name in stored else (out / name).stat().st_size for name in shards]
    known = earlier.shard_sha256 if earlier else {}
    arrays = write_manifest(
        out,
        reader.rows(indexes),
        shards=shards,
        shard_bytes=sizes,
        shard_sha256=[known[name] if name in known else _sha256(out, name) for name in shards],
        label_columns=columns,
        storage=config.storage,
        sample_rate=config.sample_rate,
        streams=config.streams,
        previous=earlier.rows if earlier else None,
    )
    totals = reader.totals
    totals.shards, totals.shard_bytes, totals.samples = len(shards), sum(sizes), len(arrays["frames"])
    seconds = np.where(
        arrays["frames"] > 0, arrays["frames"] / config.storage.fps, arrays["audio_samples"] / config.sample_rate
    )
    totals.seconds = float(seconds.sum())
    if columns:
        known_labels = np.stack([arrays[f"label{column}"] >= 0 for column in range(len(columns))])
        totals.unlabelled = int((~known_labels.any(axis=0)).sum())
    if config.windows:
        _publish_rejected(out, reader.items.__contains__, totals)
    else:
        _publish_rejected(out, lambda source: find_source(arrays, source.encode("utf-8"))[1], totals)
    totals.flag_entries.sort(key=lambda entry: entry["source"])
    totals.flagged.update(entry["flag"] for entry in totals.flag_entries)
    write_json_lines(out / "flagged.jsonl", totals.flag_entries)
    if reader.has_overrides:
        forget(out)
    else:
        remember(out, digests, reader.counts)
    return totals


def _sha256(out: Path, shard: str) -> str:
    """The SHA-256 that was recorded when the shard was written; empty if there is none, as in format 1."""
    try:
        return (out / "index" / shard).with_suffix(".sha256").read_text(encoding="utf-8").partition(" ")[0]
    except FileNotFoundError:
        return ""


class _Reader:
    """Reads the index files of which `earlier` has no rows.

    Args:
        labels: the current labels of some sources; the others have those of the index.
        attached: labels that take precedence.
        earlier: rows that need not be read.
        windows: whether samples are windows; their index files are read row by row.

    Attributes:
        counts: number of rows of each index file, by its name.
        items: of windows, the files and segments that they belong to.
        totals: the flags of the samples and the number of those with attached labels; the caller adds the rest.
    """

    def __init__(
        self, labels: Labels, attached: Mapping[str, dict[str, str]], earlier: Earlier | None, *, windows: bool
    ) -> None:
        self._labels, self._attached, self.earlier, self._windows = labels, attached, earlier, windows
        self.items: set[str] = set()
        self.has_overrides = bool(labels.by_source or attached)
        self.counts: dict[str, int] = dict(earlier.counts) if earlier else {}
        self.totals = Totals(flag_entries=list(earlier.flags) if earlier else [])
        self._sources: set[str] = set()

    def rows(self, indexes: Sequence[Path]) -> Iterator[dict[str, Any] | RowBlock]:
        """Yields the rows of the manifest, with their current labels; of several rows of a source the first one."""
        for number, index in enumerate(indexes):
            if self.earlier is not None and index.name in self.earlier.counts:
                continue
            packed = read_packed(index)
            if packed is not None and not (self.has_overrides or self._windows):
                sources = packed.texts("source")
                if self._sources.isdisjoint(sources) and len(set(sources)) == len(sources):
                    self.counts[index.name] = len(sources)
                    self._sources.update(sources)
                    yield self._block(packed, sources, number)
                    continue
            yield from self._single_rows(index, number)

    def _single_rows(self, index: Path, number: int) -> Iterator[dict[str, Any]]:
        count = 0
        for count, row in enumerate(read_index(index), start=1):  # noqa: B007
            source = row["source"]
            if source in self._sources:
                continue
            self._sources.add(source)
            if self._windows:
                self.items.add(PackedSample.of(index.stem, row).item)
            row["labels"] = self._labels.by_source.get(source, row["labels"]) | self._attached.get(source, {})
            self.totals.attached += source in self._attached
            self.totals.flag_entries += flag_entries(source, row["flags"])
            yield row | {"shard": number}
        self.counts[index.name] = count

    def _block(self, packed: PackedRows, sources: Sequence[str], number: int) -> RowBlock:
        codes = packed.arrays["other_code"]
        flagged = [code for code, other in enumerate(packed.others) if other["flags"]]
        for row in np.flatnonzero(np.isin(codes, flagged)).tolist() if flagged else ():
            self.totals.flag_entries += flag_entries(sources[row], packed.others[codes[row]]["flags"])
        return packed.block(shard=number)


def rejected_sources(out: Path) -> set[str]:
    """Returns the files and segments that were rejected and are in no shard."""
    journals = (out / "index").glob("*.rejected")
    found = {entry["source"] for journal in journals for entry in read_journal(journal)}
    return found - {PackedSample.of(name, row).item for name, row in index_rows(out)} if found else found


def _publish_rejected(out: Path, is_usable: Callable[[str], bool], totals: Totals) -> None:
    entries: dict[str, dict[str, str]] = {}
    for journal in sorted((out / "index").glob("*.rejected")):
        for entry in read_journal(journal):
            if not is_usable(entry["source"]):
                kept = {"source": entry["source"], "reason": entry["reason"], "detail": entry.get("detail", "")}
                entries[entry["source"]] = kept
    totals.rejected.update(entry["reason"] for entry in entries.values())
    write_json_lines(out / "rejected.jsonl", (entries[source] for source in sorted(entries)), durable=True)
