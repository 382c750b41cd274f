"""Labels of source files: from a CSV file or from folder names."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from settings.load import format_value


class LabelError(ValueError):
    """A labels file that cannot be used; the message names file and line."""


@dataclass(frozen=True, kw_only=True)
class Labels:
    """Label columns and each source's values.

    Attributes:
        columns: names of the label columns.
        by_source: source name -> column -> text; sources without a label are absent, unknown values are "".
        rows_without_file: how many rows of the CSV matched no source.
    """

    columns: list[str]
    by_source: dict[str, dict[str, str]] = field(default_factory=dict)
    rows_without_file: int = 0


def folder_labels(names: Sequence[str]) -> Labels:
    """Column `label`: the name of the folder a source lies in; sources at the top have none, no column if all are."""
    by_source = {name: {"label": parent} for name in names if (parent := PurePosixPath(name).parent.name)}
    return Labels(columns=["label"] if by_source else [], by_source=by_source)


def read_labels(path: Path, names: Sequence[str]) -> Labels:
    """Reads a CSV file (a tab-separated one if it ends in .tsv) and finds each row's source among `names`.

    The column `path`, or else the first one, names the source: its path within the source folder, with or without
    suffix, or just its file name or stem where only one source has it. All other columns are labels.

    Raises:
        LabelError: unreadable, not UTF-8, no label column, a row that is too long, two rows that disagree on a source.
    """
    header, rows = _read_rows(path)
    index = header.index("path") if "path" in header else 0
    positions = {name: position for position, name in enumerate(header) if position != index}
    finder = _Finder(names)
    labels: dict[str, dict[str, str]] = {}
    lines: dict[str, int] = {}
    unmatched = 0
    for line, row in rows:
        name = finder.find(row[index].strip())
        if name is None:
            unmatched += 1
            continue
        values = {column: row[position].strip() for column, position in positions.items()}
        if labels.setdefault(name, values) != values:
            raise LabelError(f"{path}: lines {lines[name]} and {line} both match {name!r} but disagree on its labels")
        lines.setdefault(name, line)
    return Labels(columns=list(positions), by_source=labels, rows_without_file=unmatched)


def _read_rows(path: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, delimiter="\t" if path.suffix.lower() == ".tsv" else ",", strict=True)
            header = [name.strip() for name in next(reader, [])]
            rows = [(reader.line_num, row) for row in reader if any(row)]
    except OSError as error:
        raise LabelError(f"cannot read the labels {path}: {error.strerror}") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise LabelError(f"{path} is not a UTF-8 CSV file: {error}") from None
    if len(header) < 2 or "" in header or len(set(header)) != len(header):
        wanted = "a column `path` and at least one label column, each once"
        raise LabelError(f"{path}: the first line must name {wanted}; it is {format_value(header)}")
    for line, row in rows:
        if len(row) > len(header):
            raise LabelError(f"{path}: line {line} has {len(row)} values, the first line names {len(header)} columns")
        row.extend([""] * (len(header) - len(row)))
    return header, rows


class _Finder:
    """Looks a path up by ever looser spellings; a spelling that several sources share finds none."""

    def __init__(self, names: Sequence[str]) -> None:
        self._by: list[dict[str, str | None]] = [{}, {}, {}, {}]
        for name in names:
            for table, spelling in zip(self._by, self._spellings(name), strict=True):
                table[spelling] = None if spelling in table else name

    @staticmethod
    def _spellings(name: str) -> tuple[str, str, str, str]:
        path = PurePosixPath(name)
        return name, str(path.with_suffix("")), path.name, path.stem

    def find(self, text: str) -> str | None:
        if not text:
            return None
        # Lists from Windows; but on Linux a name may hold a backslash.
        path = PurePosixPath(text if text in self._by[0] else text.replace("\\", "/"))
        exact, bare, file_name, stem = self._by
        for table, spelling in ((exact, str(path)), (bare, str(path)), (file_name, path.name), (stem, path.name)):
            if name := table.get(spelling):
                return name
        return stem.get(path.stem)
