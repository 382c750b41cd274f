"""The base class of plans: arrays with one row per clip."""

from __future__ import annotations

from typing import Any, Self


class Rows:
    """A dataclass whose fields are arrays with one row per clip, further `Rows`, or None in all plans of a planner."""

    def __getitem__(self, rows: slice | list[int]) -> Self:
        return type(self)(**{name: None if value is None else value[rows] for name, value in vars(self).items()})

    def with_rows(self, rows: list[int], other: Self) -> Self:
        """A copy of this plan whose row rows[k] is row k of `other`."""
        changed: dict[str, Any] = {}
        for name, value in vars(self).items():
            new = getattr(other, name)
            if isinstance(value, Rows):
                changed[name] = value.with_rows(rows, new)
            elif value is not None:
                changed[name] = value.copy()
                changed[name][rows] = new
        return type(self)(**changed)
