"""Labels of source files, from a CSV file or from folder names."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from settings.load import format_value


class LabelError(ValueError):
    """The labels file cannot be used; the message names the file and, if possible, the line."""


@dataclass(frozen=True, kw_only=True)
class Labels:
    """The label columns and each source's values.

    Attributes:
        columns: names of the label columns.
        by_source: source name -> column -> text. A source without labels has no entry; an unknown value is "".
        rows_without_file: number of rows of the CSV file that match no source.
    """

    columns: list[str]
    by_source: dict[str, dict[str, str]] = field(default_factory=dict)
    rows_without_file: int = 0


def folder_labels(names: Sequence[str]) -> Labels:
    """Returns labels with one column, `label`: the name of the folder that holds each source.

    Sources directly in the source folder have no label; if all are there, the column is omitted.
    """
    by_source = {name: {"label": parent} for name in names if (parent := PurePosixPath(name).parent.name)}
    return Labels(columns=["label"] if by_source else [], by_source=by_source)


def read_labels(path: Path, names: Sequence[str]) -> Labels:
    """Reads a CSV file (tab-separated if it ends in .tsv) and finds each row's source among `names`.

    The column `path`, or else the first column, names the source: by its path within the source folder, with or without
    suffix, or by its file name or stem if only one source has it. All other columns are labels.

    Raises:
        LabelError: the file cannot be read, is not UTF-8, has no label column or too long a row, or two rows disagree
            on the labels of one source.
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
        raise LabelError(f"{path}: the first line must name {wanted}, not {format_value(header)}")
    for line, row in rows:
        if len(row) > len(header):
            raise LabelError(
                f"{path}: line {line} has {len(row)} values, but the first line names {len(header)} columns"
            )
        row.extend([""] * (len(header) - len(row)))
    return header, rows


class _Finder:
    """Finds sources by path or by a shorter spelling; a spelling that fits several sources matches none of them."""

    def __init__(self, names: Sequence[str]) -> None:
        self._tables: list[dict[str, str | None]] = [{}, {}, {}, {}]
        for name in names:
            for table, spelling in zip(self._tables, self._spellings(name), strict=True):
                table[spelling] = None if spelling in table else name

    @staticmethod
    def _spellings(name: str) -> tuple[str, str, str, str]:
        path = PurePosixPath(name)
        return name, str(path.with_suffix("")), path.name, path.stem

    def find(self, text: str) -> str | None:
        if not text:
            return None
        # Files from Windows separate folders with backslashes; on Linux a name may contain a backslash.
        path = PurePosixPath(text if text in self._tables[0] else text.replace("\\", "/"))
        exact, bare, file_name, stem = self._tables
        for table, spelling in ((exact, str(path)), (bare, str(path)), (file_name, path.name), (stem, path.name)):
            if name := table.get(spelling):
                return name
        return stem.get(path.stem)
