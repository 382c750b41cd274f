"""Labels of source files, from a list or from folder names."""

from __future__ import annotations

import argparse
import errno
import os
from collections.abc import Sequence, Set
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

from pipeline.lists.forms import recognise
from pipeline.lists.match import Matches, Names, Row, check_fit, describe, match
from pipeline.lists.names import promises
from pipeline.lists.table import LabelError as LabelError
from pipeline.lists.table import read_table


@dataclass(frozen=True, kw_only=True)
class Labels:
    """The label columns and each source's values.

    Attributes:
        columns: names of the label columns.
        by_source: source name -> column -> text. A source without labels has no entry; an unknown value is "".
        listed: how the rows of the list were matched; None without a list.
    """

    columns: list[str]
    by_source: dict[str, dict[str, str]] = field(default_factory=dict)
    listed: Listed | None = None

    @property
    def rows_without_file(self) -> int:
        """Number of rows of the list that label no source."""
        return len(self.listed.matches.missed) + len(self.listed.matches.unclear) if self.listed else 0

    @property
    def is_unclear(self) -> bool:
        """Whether rows of the list fit several sources."""
        return self.listed is not None and bool(self.listed.matches.unclear)

    def without(self, rejected: Set[str]) -> Labels:
        """Matches again without `rejected`: of several sources that a row fits, the only usable one gets its labels."""
        if self.listed is None:
            return self
        matches = match(self.listed.rows, self.listed.names, rejected=rejected)
        return replace(self, by_source=matches.by_name, listed=replace(self.listed, matches=matches))

    def check(self) -> None:
        """Raises LabelError if the list does not seem to belong to the sources; see `check_fit`."""
        if self.listed is not None:
            check_fit(self.listed.matches, self.listed.names, source=str(self.listed.path))

    def describe(self) -> list[str]:
        """Lines that count the rows and files without a match and show three of each."""
        return describe(self.listed.matches, self.listed.names) if self.listed else []


@dataclass(frozen=True, kw_only=True)
class Listed:
    """The rows of a list, the files that they may name, and their matches."""

    path: Path
    rows: list[Row]
    names: Names
    matches: Matches


def folder_labels(names: Sequence[str]) -> Labels:
    """Returns labels with one column, `label`: the name of the folder that holds each source.

    Sources directly in the source folder have no label; if all are there, the column is omitted.
    """
    by_source = {name: {"label": parent} for name in names if (parent := PurePosixPath(name).parent.name)}
    return Labels(columns=["label"] if by_source else [], by_source=by_source)


def read_labels(
    path: Path,
    names: Sequence[str],
    *,
    streams: str | None = None,
    root: Path | None = None,
    rejected: Set[str] = frozenset(),
) -> Labels:
    """Reads a list of labels and finds each row's source among `names`.

    `recognise` finds the column that names the source; the others are labels. A row labels the source that it names
    (`Finder.find`). It labels nothing if it fits several sources, or if other rows give its source other labels.

    Args:
        streams: the tracks that a sample needs (both, video, audio), or None if all of `names` have them. Sources
            whose suffix suggests other tracks are matched only with rows that fit no other source.
        root: the folder to which `names` are relative; rows may give absolute paths, or paths relative to the list.
        rejected: names known to be unusable; see `match`.

    Raises:
        LabelError: the list cannot be read, or its columns are not recognised for certain.
    """
    found = Names(names, usable=[name for name in names if promises(name, streams)], roots=list_roots(path, root))
    table = read_table(path, lambda text: bool(found.find([text])[1]))
    form = recognise(table, lambda text: bool(found.find([text])[1]))
    rows = [
        Row(
            line=line,
            text=cells[form.file],
            spellings=form.spellings(cells),
            values={column: cells[index] for column, index in form.labels.items()},
        )
        for line, cells in table.rows[form.header :]
    ]
    matches = match(rows, found, rejected=rejected)
    listed = Listed(path=path, rows=rows, names=found, matches=matches)
    return Labels(columns=list(form.labels), by_source=matches.by_name, listed=listed)


def list_roots(path: Path, root: Path | None) -> list[str]:
    """The ways in which a list may spell the folder of the sources: absolute, or relative to the list's own folder."""
    if root is None:
        return []
    relative = os.path.relpath(root.resolve(), path.resolve().parent)
    return [str(root.absolute()), str(root.resolve()), *([relative] if relative != "." else [])]


def require_list(path: Path) -> None:
    """Raises LabelError if there is no file `path`, before anything slow begins."""
    if not path.exists():
        raise LabelError(f"cannot read the labels {path}: {os.strerror(errno.ENOENT)}")


def add_labels_may_miss(parser: argparse.ArgumentParser, *, things: str) -> None:
    """Adds the option with which `Labels.check` is left out; `things` is what the list names, in the singular."""
    parser.add_argument(
        "--labels-may-miss",
        action="store_true",
        help=f"continue even if the list names no {things} or fewer than half of them",
    )
