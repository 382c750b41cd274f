"""The results of evaluate.py in a run folder, as tables of text."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.terminal import printable
from settings.load import format_value
from training.report.small_files import print_ignored, read_small

_MAX_FILES = 200
_MAX_ROWS = 500
"""Bounds of what is read; what is beyond them is left out with a sentence."""
FORMATS = {"C": "g", "median_rank": ".1f"}
"""How the numbers of a column are written, if not with three digits."""
PRETRAINED, RANDOM = "pre-trained", "random-initialised"
"""Names of the encoders in the rows of evaluate.py."""


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """One evaluation-*.json."""

    title: str
    notes: list[str]
    """The caption and the sentences below the table."""
    rows: list[dict[str, Any]]
    checkpoint: str = ""
    """The path that was evaluated: a run folder or a checkpoint file."""

    @property
    def columns(self) -> list[str]:
        """The columns to show; see `shown_columns`."""
        return shown_columns(self.rows)

    @property
    def score(self) -> str | None:
        """The first column of numbers, which is the protocol's main figure."""
        return next((column for column in self.columns if any(_is_number(row.get(column)) for row in self.rows)), None)


def shown_columns(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The columns to show, in order. An interval stands beside its figure, in place of the standard error."""
    found = list(dict.fromkeys(column for row in rows for column in row))
    hidden = {"standard_error"} if any(map(_is_interval, found)) else set()
    return [column for column in found if column not in hidden and not _is_interval(column)]


def read_evaluations(folder: Path) -> list[Evaluation]:
    """Reads the results in a run folder, by file name; prints a sentence about each file that cannot be used."""
    found = []
    for path in sorted(folder.glob("evaluation-*.json"))[:_MAX_FILES]:
        try:
            found.append(_parse(json.loads(read_small(path))))
        except (OSError, ValueError, RecursionError) as error:
            print_ignored(path, error)
    return found


def _parse(result: Any) -> Evaluation:
    rows = result.get("rows") if isinstance(result, dict) else None
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
        raise ValueError("it holds no result of evaluate.py")
    notes = result.get("notes")
    lines = [*str(result.get("caption", "")).splitlines(), *(map(str, notes) if isinstance(notes, list) else ())]
    return Evaluation(
        title=printable(result.get("title", "evaluation")),
        notes=[printable(line) for line in lines if line],
        rows=[{printable(column): value for column, value in row.items()} for row in rows[:_MAX_ROWS]],
        checkpoint=printable(result.get("checkpoint", "")),
    )


def cell(row: Mapping[str, Any], column: str) -> str:
    """Formats a value of a row, with its interval in brackets if it has one."""
    form = FORMATS.get(column, ".3f")
    bounds = row.get(f"{column}_interval")
    if isinstance(bounds, list) and len(bounds) == 2:
        return f"{_text(row.get(column), form)} [{_text(bounds[0], form)}, {_text(bounds[1], form)}]"
    sign = "±" if column.endswith(("_sd", "standard_error")) and _is_number(row.get(column)) else ""
    return sign + _text(row.get(column), form)


def _text(value: Any, form: str) -> str:
    if value is None:
        return ""
    if isinstance(value, list):
        return " ".join(_text(item, form) for item in value[:100])
    if isinstance(value, float):
        return format(value, form if abs(value) < 1e6 else ".4g")
    return printable(value if isinstance(value, str) else format_value(value))


def _is_interval(column: str) -> bool:
    return column.endswith("_interval")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
