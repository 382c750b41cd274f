"""Reads the published lists that say what a run is to prepare, and reports what became of their rows."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from common.files import read_json_lines, write_atomically, write_json_lines
from common.phases import begin
from common.stores import Location
from pipeline.lists.annotation import Annotation, AnnotationList
from pipeline.lists.classes import plain_name, read_classes
from pipeline.lists.match import Names
from pipeline.lists.names import promises
from pipeline.lists.ontology import add_names, read_ontology
from pipeline.lists.published import read_annotations
from pipeline.lists.segments import Segments, describe, find_segments, require_found
from pipeline.lists.spans import split_fragment
from pipeline.prepare.labels import Labels, list_roots
from pipeline.prepare.records import index_rows
from pipeline.prepare.segments.options import Annotations
from pipeline.prepare.sources import PackedSample, Source

COVERAGE, UNCOVERED = "coverage.json", "uncovered.jsonl"
"""Files in OUT: the number of rows of each list by state, and the rows without a sample."""
_USED = ("cut", "whole")
"""States of rows that have a sample."""
_TEXTS = {
    "cut": "cut from a longer file",
    "whole": "whole files",
    "unusable": "unusable (see rejected.jsonl)",
    "waiting": "not prepared yet",
    "left out": "left out",
    "missing": "missing (see uncovered.jsonl)",
    "unclear": "unclear which file",
    "invalid": "cannot be used",
    "other class": "of other classes",
}
"""The states of a row, which say what became of it, and their texts in the summary."""
_STATES = tuple(_TEXTS)


@dataclass(frozen=True, kw_only=True)
class Lists:
    """The lists of a run.

    Attributes:
        segments: what they ask for.
        lines: lines for the summary about rows and files that do not match.
    """

    segments: Segments
    lines: list[str]

    def with_spans(self, sources: Sequence[Source]) -> list[Source]:
        """The sources with the spans that the lists ask for; none for a file that no list names."""
        return [replace(source, spans=tuple(self.segments.spans.get(source.name, ()))) for source in sources]

    def labels(self) -> Labels:
        """The labels of the samples."""
        by_source = {name: dict(values) for name, values in self.segments.values.items() if any(values.values())}
        return Labels(columns=self.segments.columns, by_source=by_source)


def read_segments(
    annotations: Annotations, sources: Sequence[Source], *, streams: str, root: Location, may_miss: bool
) -> Lists:
    """Reads the lists and finds their files among the sources.

    Args:
        streams: the streams that a file must have to become a sample (PrepareConfig.streams).
        root: the source folder.
        may_miss: whether to continue if no row names a file (--labels-may-miss).

    Raises:
        LabelError, ConfigError: a list cannot be used, or does not seem to belong to the sources.
    """
    listed = [source.name for source in sources]
    roots = [
        spelling
        for path in annotations.paths
        for spelling in list_roots(path, root if isinstance(root, Path) else None)
    ]
    names = Names(listed, usable=[name for name in listed if promises(name, streams)], roots=roots)
    lists = []
    for number, path in enumerate(annotations.paths):
        begin(f"reading {path}")
        lists.append(
            read_annotations(path, number, form=annotations.form, is_file=lambda text: bool(names.find([text])[1]))
        )
    lines = []
    if annotations.ontology is not None:
        lines += add_names(lists, read_ontology(annotations.ontology), path=annotations.ontology)
    others = [0] * len(lists)
    if annotations.classes is not None:
        others = [_keep_classes(one, read_classes(annotations.classes)) for one in lists]
    begin(f"finding the files of {sum(len(one.rows) for one in lists):,} rows")
    segments = find_segments(lists, names, other_classes=others)
    if not may_miss:
        require_found(segments, names)
    return Lists(segments=segments, lines=[*lines, *describe(segments)])


def _keep_classes(one: AnnotationList, classes: Sequence[str]) -> int:
    """Removes the rows that have none of the classes; returns their number."""
    wanted = {plain_name(name) for name in classes}

    def is_wanted(row: Annotation) -> bool:
        texts = [row.values.get(column, "") for column in one.labels]
        return any(plain_name(part) in wanted for text in texts for part in (text, *text.split(","), *text.split(";")))

    kept = [row for row in one.rows if is_wanted(row)]
    left_out = len(one.rows) - len(kept)
    one.rows = kept
    return left_out


@dataclass(kw_only=True)
class Coverage:
    """What became of the rows of the lists.

    Attributes:
        counts: per list, the number of rows by state.
        lines: as in `Lists`.
    """

    lists: list[AnnotationList] = field(default_factory=list)
    counts: list[Counter[str]] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)

    def report(self) -> list[dict[str, Any]]:
        """The content of coverage.json: the counts of each list."""
        return [
            {"list": one.path, "form": one.form, "listed": sum(counts.values())}
            | {state: counts[state] for state in _STATES}
            | ({"without segments": one.without_segments} if one.without_segments else {})
            for one, counts in zip(self.lists, self.counts, strict=True)
        ]

    def table(self) -> Iterator[tuple[str, int]]:
        """Rows of a table for the summary: how many rows of all lists are in each state."""
        total = sum(self.counts, Counter[str]())
        yield "rows of the annotations (see coverage.json)", sum(total.values())
        for state in _STATES:
            if total[state]:
                yield f"  {_TEXTS[state]}", total[state]
        if empty := sum(one.without_segments for one in self.lists):
            yield "videos of the annotations without a segment", empty


def write_coverage(out: Path, lists: Lists, *, prefix: str, left_out: Collection[str]) -> Coverage:
    """Writes COVERAGE and UNCOVERED: what became of the rows of the lists.

    Args:
        prefix: prefix of the names of samples in OUT, which the names in the lists lack.
        left_out: the names in the list --leave-out, with the prefix.
    """
    segments = lists.segments
    prepared = {PackedSample.of(shard, row).item for shard, row in index_rows(out)}
    rejected = {entry["source"]: _reason(entry) for entry in read_json_lines(out / "rejected.jsonl")}
    counts = [Counter({"other class": count} if count else {}) for count in segments.other_classes]
    entries: list[tuple[int, int, dict[str, Any]]] = []

    def note(number: int, line: int, text: str, state: str, reason: str) -> None:
        counts[number][state] += 1
        if state not in _USED:
            row = {"list": segments.lists[number].path, "line": line, "file": text, "state": state, "reason": reason}
            entries.append((number, line, row))

    for lost in segments.lost:
        note(*lost)
    for number, line, text, item in segments.found:
        name = prefix + item
        if name in prepared:
            note(number, line, text, "whole" if item in segments.spans else "cut", "")
        elif name in rejected:
            note(number, line, text, "unusable", rejected[name])
        elif name in left_out or split_fragment(name)[0] in left_out:
            note(number, line, text, "left out", "--leave-out names it")
        else:
            note(number, line, text, "waiting", "another part or a later run prepares it")
    entries.sort(key=lambda entry: entry[:2])
    write_json_lines(out / UNCOVERED, (row for _, _, row in entries))
    coverage = Coverage(lists=segments.lists, counts=counts, lines=lists.lines)
    write_atomically(out / COVERAGE, json.dumps(coverage.report(), ensure_ascii=False, indent=1) + "\n")
    return coverage


def _reason(entry: Mapping[str, str]) -> str:
    return f"{entry['reason']}: {entry['detail']}" if entry["detail"] else entry["reason"]
