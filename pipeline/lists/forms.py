"""Recognises the columns of a list by their names, by the form of a published list, or by which cells name files."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pipeline.lists.annotation import spell_seconds
from pipeline.lists.names import split_suffix
from pipeline.lists.spans import DECIMALS, Span
from pipeline.lists.table import LabelError, Table, check_widths
from settings.load import format_value

_IDS = ("youtubeid", "ytid", "videoid", "clipid", "fileid", "vid", "id")
_FILES = (
    *("path", "filepath", "relativepath", "relpath", "filename", "file", "fname", "videopath", "videoname", "video"),
    *("clippath", "clipname", "clip", "audiopath", "audioname", "audio", "wav", "sample", "name", *_IDS),
)
"""Names of columns that hold files, in lower case without spaces and punctuation; ties go to the earlier name."""
STARTS = ("start", "starttime", "timestart", "startsecond", "startseconds", "starttimeseconds", "begin")
ENDS = ("end", "endtime", "timeend", "endsecond", "endseconds", "endtimeseconds", "stop")
_OTHERS = {
    *("label", "labels", "class", "classname", "classid", "category", "target", "split", "subset", "fold", "speaker"),
    *("emotion", "word", "positivelabels", *STARTS, *ENDS),
}
_PARTS = {"train", "training", "val", "valid", "validation", "test", "testing", "eval"}
_SAMPLED = 2_000
"""Approximate number of rows that are inspected to recognise the column of files."""


@dataclass(frozen=True, kw_only=True)
class Form:
    """Which columns of a list name the file, and which are labels.

    Attributes:
        file: index of the column that names the file.
        start, end: indices of the columns of seconds at which a clip of a YouTube video starts and ends.
        part: indices of the columns of seconds by which the samples of segments are named; None without them.
        labels: name and index of each label column.
        header: whether the first row names the columns.
    """

    file: int
    labels: dict[str, int]
    start: int | None = None
    end: int | None = None
    part: tuple[int, int] | None = None
    header: bool = False

    def spellings(self, cells: Sequence[str]) -> list[str]:
        """The names that the file of a row may have, the most exact first."""
        name = cells[self.file]
        parts = self._parts(name, cells)
        start = spell_seconds(cells[self.start]) if self.start is not None else []
        if not name or not start:
            return [*parts, name]
        # Without a column of end times, clips last 10 s, as in VGGSound.
        end = spell_seconds(cells[self.end]) if self.end is not None else spell_seconds(str(int(float(start[1])) + 10))
        stamped = [f"{name}_{first}_{last}" for first, last in zip(start, end, strict=False)]
        return list(dict.fromkeys([*parts, *stamped, *(f"{name}_{first}" for first in start), name, f"Y{name}"]))

    def _parts(self, name: str, cells: Sequence[str]) -> list[str]:
        """The names of the samples of the row's segment."""
        if self.part is None or not name or not all(spell_seconds(cells[index]) for index in self.part):
            return []
        fragment = Span(*(round(float(cells[index]), DECIMALS) for index in self.part)).fragment
        return [f"{name}{fragment}", f"Y{name}{fragment}"]


_NUMBER = r"\d+(\.\d+)?"
_PUBLISHED = (
    {"youtube_id": r"[^\s/]+", "start": r"\d+", "label": r".+", "split": r"train|test"},  # VGGSound
    {"youtube_id": r"[^\s/]+", "start": _NUMBER, "end": _NUMBER, "label": r"/[a-z]/.+"},  # AudioSet
    {"label": r".+", "youtube_id": r"[^\s/]+", "start": r"\d+", "end": r"\d+", "split": r"[a-z]+"},  # Kinetics
)
"""The lists that are distributed without a header: the name of each column, and the pattern that its cells match."""


def recognise(table: Table, is_file: Callable[[str], bool]) -> Form:
    """Recognises the columns of a list.

    Args:
        is_file: whether a text names a file.

    Raises:
        LabelError: the columns cannot be recognised for certain, or there is none with labels.
    """
    if not table.rows or len(table.rows[0][1]) < 2:
        raise LabelError(f"{table.path} must have a column of files and at least one label column; {_ADVICE}")
    check_widths(table)
    if re.search(r"_test_split\d", table.path.name):
        raise LabelError(f"{table.path} is one of HMDB51's lists, whose numbers are no labels; see docs/datasets.md")
    rows = [cells for _, cells in table.rows]
    sample = [rows[0], *rows[1 :: 1 + len(rows) // _SAMPLED]]
    hits = _hits(sample, is_file)
    # Only a few files of a large list may be present, and none of them in the inspected rows.
    hits = hits if any(hits) else _hits(rows, is_file)
    return (
        _published(sample, hits, is_file)
        or _named(table, sample, hits, is_file)
        or _unnamed(table, sample, hits, is_file)
    )


def _published(sample: list[list[str]], hits: list[int], is_file: Callable[[str], bool]) -> Form | None:
    for columns in _PUBLISHED:
        patterns = [re.compile(pattern, re.DOTALL) for pattern in columns.values()]
        if len(sample[0]) != len(patterns):
            continue
        if all(pattern.fullmatch(cell) for cells in sample for pattern, cell in zip(patterns, cells, strict=True)):
            place = {name: index for index, name in enumerate(columns)}
            labels = {name: index for name, index in place.items() if name in ("label", "split")}
            part = (place["start"], place["end"]) if "end" in place else None
            form = Form(file=place["youtube_id"], start=place["start"], end=place.get("end"), part=part, labels=labels)
            found = any(is_file(spelling) for cells in sample for spelling in form.spellings(cells))
            return form if found or not any(hits) else None
    return None


def _named(table: Table, sample: list[list[str]], hits: list[int], is_file: Callable[[str], bool]) -> Form | None:
    """The form of a list whose columns are named by its first row or a comment with as many cells; None otherwise."""
    first = sample[0]
    words = [to_word(cell) for cell in first]
    named = any(map(is_known, words)) and not any(is_file(cell) for cell in first if not is_known(to_word(cell)))
    if ("path" in words or named) and not any(split_suffix(cell)[1] for cell in first):
        return _from_header(table, first, hits, header=True)
    for cells in table.comments[::-1]:
        if len(cells) == len(first) and any(is_known(to_word(cell)) for cell in cells):
            return _from_header(table, cells, hits, header=False)
    return None


def _from_header(table: Table, names: list[str], hits: list[int], *, header: bool, file: int | None = None) -> Form:
    """The form of a list whose columns have these names; `file` is the column of files if no name tells it."""
    words = [to_word(name) for name in names]
    files = [index for index, word in enumerate(words) if file_rank(word) is not None]
    if "path" in words:
        file = words.index("path")
    elif files:
        file = min(files, key=lambda index: (-hits[index], file_rank(words[index])))
    elif file is None and (file := _clearest(hits)) is None:
        raise LabelError(_unclear(table, "no column is named path, and none clearly holds the files"))
    times = [next((index for index, word in enumerate(words) if word in known), None) for known in (STARTS, ENDS)]
    part = (times[0], times[1]) if times[0] is not None and times[1] is not None else None
    # Beside paths, times are labels too.
    start, end = times if words[file] in _IDS else (None, None)
    places = {index for index in (file, start, end if start is not None else None) if index is not None}
    # pandas writes an index without a name.
    labels = {name: index for index, name in enumerate(names) if name and index not in places}
    if not labels or len(labels) < sum(bool(name) and index not in places for index, name in enumerate(names)):
        wanted = "a column `path` and at least one label column, each once"
        raise LabelError(f"{table.path}: the first line must name {wanted}, not {format_value(names)}")
    end = end if start is not None else None
    return Form(file=file, start=start, end=end, part=part, labels=labels, header=header)


def _unnamed(table: Table, sample: list[list[str]], hits: list[int], is_file: Callable[[str], bool]) -> Form:
    """The form of a list without known names of columns.

    Raises:
        LabelError: it is not certain which column names the files, or whether the first row is data.
    """
    file = _clearest(hits)
    if file is None:
        raise LabelError(
            _unclear(table, "the first line has no known names of columns, and no column clearly names files")
        )
    first, later = sample[0], sample[1:]
    others = [index for index in range(len(first)) if index != file]
    repeated = any(first[index] and any(cells[index] == first[index] for cells in later) for index in others)
    if not (is_file(first[file]) or split_suffix(first[file])[1] or repeated):
        if later and all(split_suffix(cells[file])[1] for cells in later):
            return _from_header(table, first, hits, header=True, file=file)
        raise LabelError(_unclear(table, "the first line may be data or names of columns"))
    parts = [index for index in others if len(others) > 1 and all(cells[index] in _PARTS for cells in sample)]
    rest = [index for index in others if index not in parts]
    if len(rest) > 1 or len(parts) > 1:
        raise LabelError(_unclear(table, "the first line is data, so the columns have no names"))
    return Form(file=file, labels=dict(zip(["label"] * len(rest) + ["split"] * len(parts), rest + parts, strict=True)))


_ADVICE = "let the first line name the columns, such as path,label,split: path is the column of files"


def _unclear(table: Table, why: str) -> str:
    columns = [
        f"{number}: {', '.join(map(format_value, cells[:3]))}"
        for number, cells in enumerate(zip(*(cells for _, cells in table.rows[:3]), strict=True), 1)
    ]
    return f"{table.path}: {why} (columns {'; '.join(columns[:12])}); {_ADVICE}"


def _hits(rows: list[list[str]], is_file: Callable[[str], bool]) -> list[int]:
    """The number of distinct cells of each column that name a file."""
    return [sum(map(is_file, set(column))) for column in zip(*rows, strict=True)]


def _clearest(hits: list[int]) -> int | None:
    """The column with more than twice the hits of any other."""
    best = max(range(len(hits)), key=hits.__getitem__)
    others = [count for index, count in enumerate(hits) if index != best]
    return best if hits[best] > 2 * max(others, default=0) else None


def to_word(name: str) -> str:
    """The name of a column in lower case without spaces and punctuation."""
    return re.sub(r"[\W_]", "", name.lower())


def file_rank(word: str) -> int | None:
    """Position among the names of columns of files; None for other names."""
    if word in _FILES:
        return _FILES.index(word)
    return len(_FILES) if word.endswith(("path", "file", "filename", "fname")) else None


def is_known(word: str) -> bool:
    """Whether columns of lists are named so."""
    return word in _OTHERS or file_rank(word) is not None
