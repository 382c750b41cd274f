"""The base class of plans: arrays with one row per clip."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import numpy as np


class Rows:
    """A dataclass whose fields are arrays with one row per clip, further `Rows`, or None in all plans of a planner."""

    def __getitem__(self, rows: slice | list[int] | np.ndarray) -> Self:
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

    @classmethod
    def joined(cls, parts: Sequence[Self], rows: Sequence[np.ndarray]) -> Self:
        """A plan whose rows rows[k], int64 [n_k], are those of parts[k]; each row is in one of them."""
        order = np.argsort(np.concatenate(rows))
        fields: dict[str, Any] = {}
        for name, value in vars(parts[0]).items():
            values = [getattr(part, name) for part in parts]
            if isinstance(value, Rows):
                fields[name] = type(value).joined(values, rows)
            else:
                fields[name] = None if value is None else np.concatenate(values)[order]
        return cls(**fields)
