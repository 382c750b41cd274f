"""Names of samples that are parts of a file: `PATH#t=START,END`, as in W3C's media fragments, in seconds.

The name of a file ends in a media suffix, which is never a number, so no file has the name of a part of another one.
"""

from __future__ import annotations

import re
from typing import NamedTuple

_FRAGMENT = re.compile(r"#t=(\d+(?:\.\d+)?),(\d+(?:\.\d+)?)$")
DECIMALS = 6
"""Decimals of the times in names: microseconds."""


class Span(NamedTuple):
    """A part of a file, in seconds from its start."""

    start: float
    end: float

    @property
    def fragment(self) -> str:
        """What follows the name of the file in the name of the sample."""
        return f"#t={format_seconds(self.start)},{format_seconds(self.end)}"


def format_seconds(seconds: float) -> str:
    """Writes a time as lists do, such as 10 or 10.5."""
    return f"{seconds:.{DECIMALS}f}".rstrip("0").rstrip(".")


def fragment_of(span: Span | None) -> str:
    """The fragment of a span; empty for None, the whole file."""
    return "" if span is None else span.fragment


def split_fragment(name: str) -> tuple[str, str]:
    """Splits the name of a sample into the name of its file and its fragment, which is empty for a whole file."""
    found = _FRAGMENT.search(name)
    return (name[: found.start()], name[found.start() :]) if found else (name, "")


def parse_fragment(fragment: str) -> Span | None:
    """The span of a fragment; None if there is none."""
    found = _FRAGMENT.fullmatch(fragment)
    return Span(float(found[1]), float(found[2])) if found else None
