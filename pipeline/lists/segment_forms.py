"""Recognises the forms of published tables of segments, with and without a header."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from pipeline.lists.forms import ENDS, STARTS, file_rank, is_known, to_word
from pipeline.lists.names import split_suffix
from pipeline.lists.table import LabelError, Table
from settings.load import format_value

_NUMBER = r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?|nan|[+-]?inf"
_ID = r"[^\s/]+"
_SAMPLED = 2_000
"""Approximate number of rows that are inspected to recognise a form."""
_HEADER_COLUMNS: dict[str, Sequence[str]] = {
    "kinetics": ("youtubeid", "timestart", "timeend"),
    "audioset": ("ytid", "startseconds", "endseconds", "positivelabels"),
    "vggsound": ("youtubeid", "start", "label", "split"),
    "acav100m": ("youtubeid", "start", "end"),
    "plain": (),
}
"""Form -> columns that its header has at least; a header that fits several forms is of the first one."""
_PATTERNS: dict[str, Sequence[Mapping[str, str]]] = {
    "vggsound": ({"id": _ID, "start": r"\d+", "label": r".+", "split": r"train|test|val"},),
    "audioset": ({"id": _ID, "start": _NUMBER, "end": _NUMBER, "label": r"/[a-z]/.+"},),
    "kinetics": (
        {"label": r".+", "id": _ID, "start": r"\d+", "end": r"\d+", "split": r"[a-z]+"},
        {"label": r".+", "id": _ID, "start": r"\d+", "end": r"\d+", "split": r"[a-z]+", "is_cc": r"[01]"},
    ),
    "acav100m": ({"id": r"[\w-]+", "start": _NUMBER, "end": _NUMBER},),
}
"""Form without a header -> the name of each column, and the pattern that its cells match."""
TABLE_FORMS = tuple(_HEADER_COLUMNS)
_PREFIXES = ("", "Y")
"""What may precede a YouTube id in a file's name: in copies of AudioSet a Y does."""
_ID_WORDS = ("youtubeid", "ytid", "videoid", "clipid", "segmentid", "fileid", "vid", "id")


@dataclass(frozen=True, kw_only=True)
class Columns:
    """Which columns of a table hold what.

    Attributes:
        file: index of the column of the file or id.
        start, end: indices of the columns of times; None if there is none. Without `end`, segments last 10 s.
        labels: name and index of each other column.
        header: whether the first row names the columns.
        prefixes: what may precede an id in a file's name; empty if the column holds paths.
    """

    form: str
    file: int
    start: int | None
    end: int | None
    labels: dict[str, int]
    header: bool
    prefixes: Sequence[str]


def find_columns(table: Table, form: str | None, is_file: Callable[[str], bool]) -> Columns:
    """Recognises the form of a table, or checks that it is of the given one.

    Raises:
        LabelError: it is not of the given form, or none is certain.
    """
    rows = [cells for _, cells in table.rows]
    sample = [rows[0], *rows[1 :: 1 + len(rows) // _SAMPLED]]
    found = _from_header(table, rows[0], is_file) or _from_patterns(sample, form) or _from_paths(sample, is_file)
    if found is None:
        wanted = f"is not in the form {form}" if form else "has an unknown form"
        raise LabelError(f"{table.path} {wanted}: {_shown(table)}; {_ADVICE}")
    words = set(map(to_word, rows[0]))
    # A header can have the columns of several forms; any of these may be given.
    if form is not None and form != found.form and not (found.header and words.issuperset(_HEADER_COLUMNS[form])):
        raise LabelError(
            f"{table.path} is not in the form {form}, but seems to be in the form {found.form}: {_shown(table)}; leave "
            f"--form out or give --form {found.form}"
        )
    return found


def _from_header(table: Table, first: list[str], is_file: Callable[[str], bool]) -> Columns | None:
    """The columns of a table whose first row names them."""
    words = [to_word(cell) for cell in first]
    if not any(map(is_known, words)) or any(_is_data(cell, is_file) for cell in first):
        return None
    ranks = {index: rank for index, word in enumerate(words) if (rank := _rank(word)) is not None}
    if not ranks:
        raise LabelError(f"{table.path}: no column is named path, file or youtube_id ({_shown(table)}); {_ADVICE}")
    file = min(ranks, key=lambda index: ranks[index])
    start = next((index for index, word in enumerate(words) if word in STARTS), None)
    end = next((index for index, word in enumerate(words) if word in ENDS), None)
    is_id = words[file] in _ID_WORDS
    if (start is None) != (end is None) and not (is_id and end is None):
        lacking = "start" if start is None else "end"
        raise LabelError(f"{table.path} has no column {lacking}: {_shown(table)}; {_ADVICE}")
    labels = {name: index for index, name in enumerate(first) if name and index not in (file, start, end)}
    if len(labels) < sum(bool(name) and index not in (file, start, end) for index, name in enumerate(first)):
        raise LabelError(f"{table.path}: the first line names a column twice: {format_value(first)}")
    known = (form for form, wanted in _HEADER_COLUMNS.items() if set(wanted) <= set(words))
    form = next(known) if is_id else "plain"
    if form == "audioset":
        labels = {"label": words.index("positivelabels")}
    return Columns(
        form=form,
        file=file,
        start=start,
        end=end,
        labels=labels,
        header=True,
        prefixes=_PREFIXES if is_id else (),
    )


def _from_patterns(sample: list[list[str]], form: str | None) -> Columns | None:
    """The columns of a published table without a header."""
    for name, columns in ((name, columns) for name, variants in _PATTERNS.items() for columns in variants):
        if len(sample[0]) != len(columns) or form not in (None, name):
            continue
        patterns = [re.compile(pattern, re.DOTALL | re.IGNORECASE) for pattern in columns.values()]
        place = {column: index for index, column in enumerate(columns)}
        # A cell with a media suffix is the path of a file, not an id.
        fitting = sum(
            all(pattern.fullmatch(cell) for cell, pattern in zip(cells, patterns, strict=True))
            and not split_suffix(cells[place["id"]])[1]
            for cells in sample
        )
        # A few rows may be damaged; they are reported one by one.
        if 2 * fitting > len(sample):
            labels = {column: index for column, index in place.items() if column in ("label", "split", "is_cc")}
            return Columns(
                form=name,
                file=place["id"],
                start=place["start"],
                end=place.get("end"),
                labels=labels,
                header=False,
                prefixes=_PREFIXES,
            )
    return None


def _from_paths(sample: list[list[str]], is_file: Callable[[str], bool]) -> Columns | None:
    """The columns of a plain table without a header: path, start, end and at most one label and one split."""
    width = len(sample[0])
    numbers = re.compile(_NUMBER, re.IGNORECASE)
    if not 3 <= width <= 5 or 2 * sum(_is_path(cells[0], is_file) for cells in sample) <= len(sample):
        return None
    timed = sum(all(not cell or numbers.fullmatch(cell) for cell in cells[1:3]) for cells in sample)
    if 2 * timed <= len(sample):
        return None
    labels = dict(zip(("label", "split"), range(3, width), strict=False))
    return Columns(form="plain", file=0, start=1, end=2, labels=labels, header=False, prefixes=())


def _is_data(cell: str, is_file: Callable[[str], bool]) -> bool:
    """Whether a cell of the first row cannot be the name of a column."""
    if to_word(cell) and is_known(to_word(cell)):
        return False
    return bool(re.fullmatch(_NUMBER, cell, re.IGNORECASE)) or _is_path(cell, is_file)


def _is_path(cell: str, is_file: Callable[[str], bool]) -> bool:
    return bool(split_suffix(cell)[1]) or "/" in cell.strip("/") or is_file(cell)


def _rank(word: str) -> int | None:
    """Rank of a column name among those that hold files: paths, then ids, then others; the lowest rank is used."""
    if word in ("path", "filepath"):
        return 0
    if word in _ID_WORDS:
        return 1 + _ID_WORDS.index(word)
    rank = file_rank(word)
    return None if rank is None else 100 + rank


_ADVICE = "let the first line name the columns, such as path,start,end,label,split, or give --form"


def _shown(table: Table) -> str:
    line, cells = table.rows[0]
    return f"line {line} is {format_value(cells[:8])}"
