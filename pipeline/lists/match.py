"""Gives each file the values of the row that names it, and reports the rows and files without a match."""

from __future__ import annotations

from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass, field
from itertools import islice

from pipeline.lists.names import Finder, split_suffix
from pipeline.lists.table import LabelError
from settings.load import format_value

SHOWN = 3
"""Number of examples of each kind in messages."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """A row of a list: its file as listed and as it may be spelt, the most exact first, and its values per column."""

    line: int
    text: str
    spellings: Sequence[str]
    values: dict[str, str]


@dataclass(kw_only=True)
class Matches:
    """Which rows and files belong together.

    Attributes:
        by_name: file name -> column -> value, for each file that one row names, or several rows that agree.
        rows: number of rows.
        missed: (row, reason or "") for rows that name no file.
        unclear: (row, reason) for rows that fit several files, or whose file other rows give other values.
        files: number of files that can become samples.
        unnamed: those of these files that no row names.
    """

    by_name: dict[str, dict[str, str]] = field(default_factory=dict)
    rows: int = 0
    missed: list[tuple[Row, str]] = field(default_factory=list)
    unclear: list[tuple[Row, str]] = field(default_factory=list)
    files: int = 0
    unnamed: list[str] = field(default_factory=list)


class Names:
    """The files among which rows are matched.

    Args:
        names: paths within a folder, separated by /.
        usable: those that can become samples, as far as their suffixes tell; a row means one of the others only if it
            fits none of these. By default all.
        roots: as for Finder.
    """

    def __init__(self, names: Sequence[str], *, usable: Sequence[str] | None = None, roots: Sequence[str] = ()) -> None:
        self.all = names
        self.usable = usable or names
        chosen = set(self.usable)
        rest = [name for name in names if name not in chosen] if len(chosen) < len(names) else []
        self._finders = [Finder(self.usable, roots=roots), *([Finder(rest, roots=roots)] if rest else [])]

    def find(self, spellings: Iterable[str]) -> tuple[str, list[str]]:
        """Returns the first spelling that fits any file, and these files; ("", []) if none does."""
        for finder in self._finders:
            for spelling in spellings:
                if found := finder.find(spelling):
                    return spelling, found
        return "", []

    def is_gap(self, row: Row) -> bool:
        """Whether the row gives a folder and a file name that exist, though not together: its file is missing."""
        return self._finders[0].is_gap(row.text)

    def hint(self, text: str) -> str:
        """What a row that gives `text`, which names no file, may have meant."""
        return next(filter(None, (finder.hint(text) for finder in self._finders)), "")


def match(rows: Sequence[Row], names: Names, *, rejected: Set[str] = frozenset()) -> Matches:
    """Matches rows with files; a row or file that is ambiguous stays without values, and does not affect the others.

    Args:
        rejected: names of files that turned out to be unusable; they are ignored where a row fits several files.
    """
    files = [name for name in names.usable if name not in rejected]
    matches = Matches(rows=len(rows), files=len(files))
    claims: dict[str, list[tuple[Row, bool]]] = {}
    fitting: set[str] = set()
    for row in rows:
        spelling, found = names.find(row.spellings)
        if len(found) > 1:
            found = [name for name in found if name not in rejected] or found
        if not found:
            matches.missed.append((row, ""))
        elif len(found) > 1:
            fitting.update(found)
            listed = ", ".join(map(format_value, found[:SHOWN]))
            matches.unclear.append((row, f"fits {len(found)} files: {listed}"))
        else:
            as_listed = split_suffix(spelling)[1] in ("", split_suffix(found[0])[1])
            claims.setdefault(found[0], []).append((row, as_listed))
    for name, claimed in claims.items():
        _settle(matches, name, claimed)
    matches.unnamed = [name for name in files if name not in claims and name not in fitting]
    return matches


def _settle(matches: Matches, name: str, claimed: list[tuple[Row, bool]]) -> None:
    """Gives the file `name` the values of the rows that claim it, if they agree.

    A row that lists a.avi may label a.mp4, but yields to a row that lists a.mp4 itself if their values differ.
    """
    if any(row.values != claimed[0][0].values for row, _ in claimed):
        literal = [claim for claim in claimed if claim[1]]
        if 0 < len(literal) < len(claimed):
            reason = f"line {literal[0][0].line} names {format_value(name)}"
            matches.missed += [(row, reason) for row, as_listed in claimed if not as_listed]
            claimed = literal
    other = next((row for row, _ in claimed if row.values != claimed[0][0].values), None)
    if other is None:
        matches.by_name[name] = claimed[0][0].values
        return
    reason = f"lines {claimed[0][0].line} and {other.line} both match {format_value(name)} but disagree on its labels"
    matches.unclear += [(row, reason) for row, _ in claimed]


def check_fit(matches: Matches, names: Names, *, source: str) -> None:
    """Raises LabelError if the list does not seem to belong to the files, or its columns were misread.

    That is: no row names a file, or rows name fewer than half of the files. A row whose folder and file name both
    exist, though not together, counts as if its file were there: the file was probably never downloaded.
    """
    gaps = sum(not reason and names.is_gap(row) for row, reason in matches.missed)
    named = matches.files - len(matches.unnamed)
    if len(matches.missed) - gaps == matches.rows:
        found = f"none of its {matches.rows:,} rows names a file"
    elif 2 * (named + gaps) < matches.files:
        found = f"its rows name only {named:,} of {matches.files:,} files that can become samples"
    else:
        return
    examples = "".join(f"\n  {line}" for line in describe(matches, names))
    remedy = "correct the list, or pass --labels-may-miss to continue with the rows that match"
    raise LabelError(f"{source} does not fit the files: {found}; {remedy}{examples}")


def describe(matches: Matches, names: Names) -> list[str]:
    """Lines that count the rows and files without a match and show three of each, those with a hint first."""
    hinted = [(row, reason or names.hint(row.text)) for row, reason in matches.missed[:1000]]
    hinted.sort(key=lambda item: not item[1])
    by_reason = {reason: (row, reason) for row, reason in reversed(matches.unclear)}
    unclear = [*by_reason.values()][::-1]
    return [
        *_counted("rows without a file", len(matches.missed), map(_format_row, hinted)),
        *_counted("rows whose file is unclear, which label nothing", len(matches.unclear), map(_format_row, unclear)),
        *_counted("files without a row", len(matches.unnamed), map(format_value, matches.unnamed)),
    ]


def _counted(what: str, count: int, examples: Iterable[str]) -> list[str]:
    return [f"{what}: {count:,}", *(f"  {example}" for example in islice(examples, SHOWN))] if count else []


def _format_row(item: tuple[Row, str]) -> str:
    row, reason = item
    return f"line {row.line}: {format_value(row.text)}{f' ({reason})' if reason else ''}"
