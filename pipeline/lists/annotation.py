"""One row of a published list, in whatever form the list is: a file, or a part of one, and its labels."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import NamedTuple

from pipeline.lists.names import split_suffix
from pipeline.lists.spans import DECIMALS, Span
from settings.load import format_value

MOST_SECONDS = 1e6
"""Bound of the times in lists, in seconds: eleven days."""


class Annotation(NamedTuple):
    """A row of a list.

    Attributes:
        list: number of the list, from 0.
        line: line of a table, number of the entry in other lists.
        text: the file or id, as listed.
        span: the part of the file; None for the whole file.
        times: start and end as listed; None for the whole file.
        whole: names that the file may have.
        values: column -> label.
        problem: why the row cannot be used; empty if it can.
    """

    list: int
    line: int
    text: str
    span: Span | None
    times: tuple[object, object] | None
    whole: Sequence[str]
    values: Mapping[str, str]
    problem: str = ""

    @property
    def trimmed(self) -> Sequence[str]:
        """Names that a file with just this part may have, the most exact first: ID_START_END or ID_START."""
        if self.times is None:
            return []
        starts, ends = (spell_seconds(str(time)) for time in self.times)
        # Made when they are asked for: they would take most of the memory of a list of millions of rows.
        stems = self.whole if len(self.whole) > 1 else [split_suffix(self.whole[0])[0]]
        return [
            name
            for stem in stems
            for name in dict.fromkeys(
                [
                    *(f"{stem}_{start}_{end}" for start, end in zip(starts, ends, strict=True)),
                    *(f"{stem}_{start}" for start in starts),
                ]
            )
        ]


@dataclass(kw_only=True)
class AnnotationList:
    """The rows of one list.

    Attributes:
        path: the list, as it was given.
        form: name of its form.
        columns: names of its label columns.
        rows: its rows.
        without_segments: number of entries of a JSON list that have no segment.
    """

    path: str
    form: str
    columns: list[str]
    rows: list[Annotation]
    without_segments: int = 0
    labels: tuple[str, ...] = field(default=("label",))
    """Columns that hold classes."""


def make_row(
    number: int,
    line: int,
    text: str,
    times: tuple[object, object] | None,
    values: Mapping[str, str],
    *,
    prefixes: Sequence[str] = (),
) -> Annotation:
    """Makes a row from the cells of a list.

    Args:
        times: start and end in seconds, as listed; None for a whole file.
        prefixes: what may precede an id in the name of its file; empty if `text` is the path of a file.
    """
    if not text:
        return Annotation(number, line, text, None, None, (), values, "it names no file")
    whole = [prefix + text for prefix in prefixes] or [text]
    if times is None or (not prefixes and times == ("", "")):
        return Annotation(number, line, text, None, None, whole, values)
    start, problem = _seconds("start", times[0])
    end, other = _seconds("end", times[1])
    problem = problem or other
    if not problem and end <= start:
        problem = f"the end ({times[1]}) is not after the start ({times[0]})"
    if problem:
        return Annotation(number, line, text, None, None, whole, values, problem)
    return Annotation(number, line, text, Span(start, end), times, whole, values)


def _seconds(what: str, value: object) -> tuple[float, str]:
    """The time that a cell holds, and why it cannot be used."""
    seconds = math.nan
    # Python would read 1_0 as 10.
    if isinstance(value, (str, int, float)) and not isinstance(value, bool) and "_" not in str(value):
        with suppress(ValueError, OverflowError):
            seconds = float(value)
    if not 0 <= seconds < MOST_SECONDS:
        return 0.0, f"the {what} must be a number of seconds from 0 to {MOST_SECONDS:,.0f}, not {format_value(value)}"
    return round(seconds, DECIMALS) + 0.0, ""


def spell_seconds(text: str) -> list[str]:
    """How clip names may spell a time in seconds: zero-padded to six digits, whole, as in the list, in milliseconds."""
    try:
        seconds = float(text)
    except ValueError:
        return []
    if not 0 <= seconds < MOST_SECONDS:
        return []
    return [f"{int(seconds):06d}", str(int(seconds)), text, f"{1000 * seconds:.0f}"]
