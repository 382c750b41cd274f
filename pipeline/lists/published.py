"""Reads published lists of segments as they are: tables of several forms, ActivityNet's JSON, and official splits."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from pipeline.lists.annotation import MOST_SECONDS, AnnotationList, make_row
from pipeline.lists.official_splits import read_official_splits
from pipeline.lists.segment_forms import TABLE_FORMS, find_columns
from pipeline.lists.spans import format_seconds
from pipeline.lists.table import LabelError, check_widths, read_table
from settings.errors import ConfigError
from settings.load import format_names, format_value

FORMS = (*TABLE_FORMS, "activitynet", "ucf101", "hmdb51")
"""Names of the forms of lists."""
_PARTS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validate", "validation"), "validation"),
    **dict.fromkeys(("test", "testing", "eval", "evaluation"), "test"),
}
"""Word in the name of a list, or subset in a JSON list -> value of the column split, as evaluate.py reads it."""
_SPLIT = "split"


def read_annotations(path: Path, number: int, *, form: str | None, is_file: Callable[[str], bool]) -> AnnotationList:
    """Reads a list.

    Args:
        path: a table, a JSON file, or the folder of the official lists of UCF101 or HMDB51.
        number: number of the list, for its rows.
        form: one of FORMS, or None to find it out.
        is_file: whether a text names a file.

    Raises:
        LabelError: the list cannot be read, is not of this form, or its form is not certain.
    """
    if path.is_dir():
        found = _read_splits(path, number, form)
    elif form in ("ucf101", "hmdb51"):
        raise LabelError(f"{path} is a file, but --form {form} needs the folder of the official lists")
    elif form == "activitynet" or (form is None and _is_json(path)):
        found = _read_json(path, number)
    else:
        found = _read_table(path, number, form, is_file)
    if not (found.rows or found.without_segments):
        raise LabelError(f"{path} lists nothing")
    return _with_split(found, path) if _SPLIT not in found.columns else found


def _with_split(found: AnnotationList, path: Path) -> AnnotationList:
    """Adds a column split if a word in the list's file name tells the part."""
    words = re.findall(r"[a-z]+", path.stem.lower())
    parts = {_PARTS[word] for word in words if word in _PARTS}
    if len(parts) == 1:
        part = {_SPLIT: parts.pop()}
        found.columns.append(_SPLIT)
        found.rows = [row._replace(values={**row.values, **part}) for row in found.rows]
    return found


def _read_table(path: Path, number: int, form: str | None, is_file: Callable[[str], bool]) -> AnnotationList:
    table = read_table(path, is_file)
    if not table.rows:
        raise LabelError(f"{path} lists nothing")
    check_widths(table)
    columns = find_columns(table, form, is_file)
    rows = []
    for line, cells in table.rows[columns.header :]:
        times = None
        if columns.start is not None:
            end = cells[columns.end] if columns.end is not None else _plus_ten(cells[columns.start])
            times = (cells[columns.start], end)
        values = {name: cells[index] for name, index in columns.labels.items()}
        rows.append(make_row(number, line, cells[columns.file], times, values, prefixes=columns.prefixes))
    classes = tuple(name for name in columns.labels if name != _SPLIT)
    return AnnotationList(
        path=str(path), form=columns.form, columns=list(columns.labels), rows=rows, labels=classes or ("label",)
    )


def _plus_ten(start: str) -> str:
    """The end of a segment without one: clips last 10 s, as in VGGSound."""
    try:
        return format_seconds(float(start) + 10) if 0 <= float(start) < MOST_SECONDS else start
    except ValueError:
        return start


def _is_json(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(64).lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{")
    except OSError:
        return False


def _read_json(path: Path, number: int) -> AnnotationList:
    """Reads {"database": {ID: {"subset": ..., "annotations": [{"segment": [start, end], "label": ...}]}}}.

    Kinetics' JSON lists have no "database" around the videos, and one annotation instead of a list.
    """
    try:
        content = json.loads(path.read_bytes().decode("utf-8-sig"))
    except OSError as error:
        raise LabelError(f"cannot read the annotations {path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise LabelError(f"{path} is not in the form activitynet, as it is no JSON: {error}") from None
    database = content.get("database", content) if isinstance(content, dict) else None
    if not isinstance(database, dict) or not all(isinstance(video, dict) for video in database.values()):
        raise LabelError(
            f'{path} is not in the form activitynet: it must hold {{"database": {{ID: {{"subset": ..., "annotations": '
            '[{"segment": [START, END], "label": ...}]}}}}'
        )
    found = AnnotationList(path=str(path), form="activitynet", columns=["label", _SPLIT], rows=[])
    entry = 0
    for name, video in database.items():
        subset = str(video.get("subset", "")).lower()
        segments = list(_segments(video))
        found.without_segments += not segments
        for times, label in segments:
            entry += 1
            values = {"label": label, _SPLIT: _PARTS.get(subset, subset)}
            found.rows.append(make_row(number, entry, name.strip(), times, values, prefixes=("v_", "")))
    return found


def _segments(video: Mapping[str, Any]) -> Iterator[tuple[tuple[object, object], str]]:
    annotations = video.get("annotations")
    for annotation in annotations if isinstance(annotations, list) else [annotations] if annotations else []:
        segment = annotation.get("segment") if isinstance(annotation, dict) else None
        times = (segment, segment)
        if isinstance(segment, list) and len(segment) == 2:
            times = (segment[0], segment[1])
        label = annotation.get("label", "") if isinstance(annotation, dict) else ""
        yield times, str(label).strip()


def _read_splits(path: Path, number: int, form: str | None) -> AnnotationList:
    """Reads the folder of the official lists; the first split is the column `split`, the others `split2`, ..."""
    try:
        official = read_official_splits(path)
    except ConfigError as error:
        raise LabelError(str(error).replace("splits=", "--annotations ")) from None
    if form not in (None, official.name):
        raise LabelError(f"{path} is not in the form {form}; it holds the lists of {official.name}")
    names = {split: _SPLIT if split == 1 else f"{_SPLIT}{split}" for split in official.splits}
    listed = dict.fromkeys([*(name for parts in official.splits.values() for name in parts), *official.unused])
    rows = []
    for line, name in enumerate(sorted(listed), 1):
        values = {"label": PurePosixPath(name).parent.name}
        values |= {column: official.splits[split].get(name, "") for split, column in names.items()}
        rows.append(make_row(number, line, name, None, values))
    return AnnotationList(path=str(path), form=official.name, columns=["label", *names.values()], rows=rows)


def require_forms(paths: Sequence[Path], form: str | None) -> None:
    """Raises LabelError if a list does not exist or the form is unknown, before anything slow begins."""
    if form is not None and form not in FORMS:
        raise LabelError(f"--form must be one of {format_names(FORMS)}, not {format_value(form)}")
    for path in paths:
        if not path.exists():
            raise LabelError(f"cannot read the annotations {path}: there is no such file")
