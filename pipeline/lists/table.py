"""Reads a list as rows of cells, whatever separates them: commas, tabs, semicolons, or spaces before the last cell."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice, takewhile
from pathlib import Path

from settings.load import format_value

_LOOKED_AT = 50
"""Number of rows that are inspected to recognise the delimiter."""


class LabelError(ValueError):
    """A list of files, such as a labels file, cannot be used; the message names the file and, if possible, the line."""


@dataclass(frozen=True, kw_only=True)
class Table:
    """The cells of a list.

    Attributes:
        path: the file.
        rows: (number of the line, cells without surrounding spaces) for each row that is not empty.
        comments: the cells of each line that begins with # before the first row, without the #.
    """

    path: Path
    rows: list[tuple[int, list[str]]]
    comments: list[list[str]]


def read_table(path: Path, is_file: Callable[[str], bool]) -> Table:
    """Reads a list in UTF-8.

    Args:
        is_file: whether a text names a file; a first line such as `#20_clap.avi,clap` is then no comment.

    Raises:
        LabelError: the file cannot be read, is not UTF-8, or its quotes do not match.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
        lines = text.splitlines(keepends=True)
        marked = list(takewhile(lambda line: line.startswith("#"), lines))
        delimiters = ["\t", ",", ";"] if path.suffix.lower() == ".tsv" else [",", "\t", ";"]
        delimiter = _delimiter("".join(lines[len(marked) :]) or text, delimiters)
        comments, skipped = [], 0
        for line in marked:
            if any(is_file(cell) for _, cells in _rows(line, delimiter, strict=False) for cell in cells):
                break
            comments += [cells for _, cells in _rows(line.lstrip("# "), delimiter, strict=False)]
            text = text[len(line) :]
            skipped += 1
        rows = [(skipped + line, cells) for line, cells in _rows(text, delimiter)]
    except OSError as error:
        raise LabelError(f"cannot read the labels {path}: {error.strerror}") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise LabelError(f"{path} is not a UTF-8 CSV file: {error}") from None
    return Table(path=path, rows=rows, comments=comments)


def check_widths(table: Table) -> None:
    """Fills rows that are too short with empty cells.

    Raises:
        LabelError: a row has more cells than the first row.
    """
    width = len(table.rows[0][1])
    for line, cells in table.rows:
        if len(cells) > width:
            raise LabelError(
                f"{table.path}: line {line} has {len(cells)} values, but the first line has {width}: "
                f"{format_value(cells)}; put values that contain the separator between double quotes"
            )
        cells.extend([""] * (width - len(cells)))


def _delimiter(text: str, wanted: list[str]) -> str | None:
    """The delimiter at which most rows have as many cells as the first; None for spaces, or rows of one cell."""
    best, most = None, 0.0
    for delimiter in wanted:
        try:
            rows = [cells for _, cells in islice(_rows(text, delimiter, strict=False), _LOOKED_AT)]
        except csv.Error:
            continue
        if not rows or len(rows[0]) < 2:
            continue
        alike = sum(len(cells) == len(rows[0]) for cells in rows) / len(rows)
        if alike > most:
            best, most = delimiter, alike
    return best


def _rows(text: str, delimiter: str | None, *, strict: bool = True) -> Iterator[tuple[int, list[str]]]:
    lines = io.StringIO(text, newline="")
    if delimiter is None:
        # Names may contain spaces, so only the last space separates.
        for number, line in enumerate(lines, 1):
            if cells := line.strip().rsplit(None, 1):
                yield number, cells
        return
    reader = csv.reader(lines, delimiter=delimiter, strict=strict, skipinitialspace=True)
    for cells in reader:
        if any(cells):
            yield reader.line_num, [cell.strip() for cell in cells]
