"""Finds the file of each row of published lists: one that holds just the row's segment, or one to cut it from."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import NamedTuple
from unicodedata import normalize

from pipeline.lists.annotation import Annotation, AnnotationList
from pipeline.lists.match import SHOWN, Names
from pipeline.lists.names import split_suffix
from pipeline.lists.spans import Span, fragment_of
from pipeline.lists.table import LabelError
from settings.load import format_value

_TRIMMED = re.compile(r"_[\d.]+$")
"""How the names of files end that hold just one segment (ID_START); some ids end so too."""
_HINTED = 1000
"""Number of rows without a sample among which those without a file get a hint at the file that they may mean."""


class Found(NamedTuple):
    """A row whose file was found; `list`, `line` and `text` as in `Annotation`, `item` is the name of its sample."""

    list: int
    line: int
    text: str
    item: str


class Lost(NamedTuple):
    """A row that gives no sample: `state` is missing, unclear or invalid; the rest as in `Annotation`."""

    list: int
    line: int
    text: str
    state: str
    reason: str


@dataclass(kw_only=True)
class Segments:
    """The samples that lists ask for, and what of the lists and files does not match.

    Attributes:
        lists: the lists.
        columns: names of the label columns of all lists.
        spans: file -> what to prepare from it, in order; None stands for the whole file.
        values: name of a sample -> column -> label.
        found, lost: the rows with and without a file.
        other_classes: number of rows of each list that are left out because of their class.
        repeated: number of rows that repeat an earlier one.
        conflicts: one sentence per sample and column on whose label the sample's rows disagree.
        in_several_splits: files of which segments are in several splits.
        unlisted: files that can become samples, but are in no list.
    """

    lists: list[AnnotationList]
    columns: list[str]
    spans: dict[str, list[Span | None]] = field(default_factory=dict)
    values: dict[str, dict[str, str]] = field(default_factory=dict)
    found: list[Found] = field(default_factory=list)
    lost: list[Lost] = field(default_factory=list)
    other_classes: list[int] = field(default_factory=list)
    repeated: int = 0
    conflicts: list[str] = field(default_factory=list)
    in_several_splits: list[str] = field(default_factory=list)
    unlisted: list[str] = field(default_factory=list)


def find_segments(lists: Sequence[AnnotationList], names: Names, *, other_classes: Sequence[int] = ()) -> Segments:
    """Finds the file of each row: the one that was cut to its times, or else the one to cut it from.

    Rows that ask for the same part of a file are one sample. Where they disagree on a label, the sample has none.
    """
    columns = list(dict.fromkeys(column for one in lists for column in one.columns))
    segments = Segments(lists=list(lists), columns=columns, other_classes=list(other_classes))
    finder = _RowFinder(lists, names)
    claims: dict[str, list[Annotation]] = {}
    for row in (row for one in lists for row in one.rows):
        if row.problem:
            segments.lost.append(Lost(row.list, row.line, row.text, "invalid", row.problem))
            continue
        files, span = finder.find(row)
        if len(files) != 1:
            state = "unclear" if files else "missing"
            listed = ", ".join(map(format_value, files[:SHOWN]))
            reason = f"fits {len(files)} files: {listed}" if files else ""
            if not files and len(segments.lost) < _HINTED:
                reason = names.hint(row.whole[0])
            segments.lost.append(Lost(row.list, row.line, row.text, state, reason))
            continue
        item = files[0] + fragment_of(span)
        if item not in claims:
            segments.spans.setdefault(files[0], []).append(span)
        claims.setdefault(item, []).append(row)
        segments.found.append(Found(row.list, row.line, row.text, item))
    for spans in segments.spans.values():
        spans.sort(key=lambda span: (span is not None, span))
    for item, rows in claims.items():
        _settle(segments, item, rows)
    segments.in_several_splits = list(_in_several_splits(segments))
    segments.unlisted = [name for name in names.usable if name not in segments.spans]
    return segments


class _RowFinder:
    """Finds the files that rows name.

    If both abc and abc_10 are listed ids, a file abc_10 is that of the id abc_10, not the part of abc from 10 s on.
    """

    def __init__(self, lists: Sequence[AnnotationList], names: Names) -> None:
        self._names = names
        self._stems = {split_suffix(normalize("NFC", name.rpartition("/")[2]))[0] for name in names.all}
        names_of_rows = (name for one in lists for row in one.rows for name in row.whole)
        self._listed = {name for name in names_of_rows if _TRIMMED.search(name)}

    def find(self, row: Annotation) -> tuple[list[str], Span | None]:
        """Returns the files that the row fits, and the part of them that it asks for; None for all of a file.

        An id means a file that was cut to the row's times, if there is one; a path means the file at that path.
        """
        is_path = len(row.whole) == 1  # an id has one spelling per prefix
        if is_path and (found := self._first(row.whole)):
            return found, row.span
        if found := self._first(name for name in row.trimmed if name not in self._listed):
            return found, None
        return ([] if is_path else self._first(row.whole)), row.span

    def _first(self, spellings: Iterable[str]) -> list[str]:
        for spelling in spellings:
            # Lists have millions of rows, nearly all of which are looked up in vain under most spellings.
            stem = spelling.replace("\\", "/").rpartition("/")[2]
            if split_suffix(normalize("NFC", stem))[0] in self._stems:
                found = self._names.find([spelling])[1]
                if found:
                    return found
        return []


def _settle(segments: Segments, item: str, rows: Sequence[Annotation]) -> None:
    """Gives a sample the labels on which its rows agree."""
    values, conflicting = dict(rows[0].values), set[str]()
    segments.repeated += len(rows) - 1
    for row in rows[1:]:
        for column, value in row.values.items():
            if column not in conflicting and values.setdefault(column, value) != value:
                first = next(other for other in rows if other.values.get(column, value) != value)
                where = [_where(segments.lists, one.list, one.line) for one in (first, row)]
                listed = " and ".join(format_value(one.values[column]) for one in (first, row))
                segments.conflicts.append(
                    f"{format_value(item)} has no {column}, as {where[0]} and {where[1]} disagree: {listed}"
                )
                values[column] = ""
                conflicting.add(column)
    segments.values[item] = values


def _where(lists: Sequence[AnnotationList], number: int, line: int) -> str:
    return f"line {line} of {lists[number].path}" if len(lists) > 1 else f"line {line}"


def _in_several_splits(segments: Segments) -> Iterator[str]:
    for file, spans in segments.spans.items():
        splits = {segments.values[file + fragment_of(span)].get("split") for span in spans} - {None, ""}
        if len(splits) > 1:
            yield file


def require_found(segments: Segments, names: Names) -> None:
    """Raises LabelError if no row names a file."""
    rows = len(segments.found) + len(segments.lost)
    if segments.found:
        return
    listed = ", ".join(one.path for one in segments.lists)
    forms = ", ".join(sorted({one.form for one in segments.lists}))
    if not rows and any(segments.other_classes):
        raise LabelError(f"no row of {listed} has one of the classes that --classes names")
    examples = "".join(f"\n  {line}" for line in describe_lost(segments.lost, segments.lists))
    files = "".join(f"\n  file {format_value(name)}" for name in names.usable[:SHOWN])
    raise LabelError(
        f"{listed} (form {forms}) does not fit the files: none of its {rows:,} rows names a file; correct the list or "
        f"--form, or pass --labels-may-miss to continue{examples}{files}"
    )


def describe_lost(lost: Sequence[Lost], lists: Sequence[AnnotationList]) -> Iterator[str]:
    """Lines that count the rows without a sample by state, and show three of each, those with a reason first."""
    texts = {
        "missing": "rows whose file is missing",
        "unclear": "rows whose file is unclear, which give no sample",
        "invalid": "rows that cannot be used",
    }
    for state, text in texts.items():
        rows = [row for row in lost if row.state == state]
        if rows:
            yield f"{text}: {len(rows):,}"
        for row in islice(sorted(rows, key=lambda row: not row.reason), SHOWN):
            reason = f" ({row.reason})" if row.reason else ""
            yield f"  {_where(lists, row.list, row.line)}: {format_value(row.text)}{reason}"


def describe(segments: Segments) -> Iterator[str]:
    """Lines about the rows and files that do not match, for the summary."""
    yield from describe_lost(segments.lost, segments.lists)
    if segments.conflicts:
        yield f"labels on which the rows of a sample disagree: {len(segments.conflicts):,}"
        yield from (f"  {line}" for line in segments.conflicts[:SHOWN])
    if segments.in_several_splits:
        yield f"files with segments in several splits: {len(segments.in_several_splits):,}"
        yield from (f"  {format_value(name)}" for name in segments.in_several_splits[:SHOWN])
    if segments.unlisted:
        yield f"files that no list names, which were not prepared: {len(segments.unlisted):,}"
        yield from (f"  {format_value(name)}" for name in segments.unlisted[:SHOWN])
