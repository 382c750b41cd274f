"""Checks that numbers are finite before they are ranked, averaged or reported."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from common.terminal import printable


class NotFiniteError(ValueError):
    """NaN or an infinity where numbers are ranked, counted or averaged; the message is for the user."""


def finite_rows(values: ArrayLike) -> np.ndarray:
    """Returns which rows are finite, bool [n] (for a single number, [1]).

    A row of a matrix also counts as not finite if its squared norm overflows the array's dtype, because then cosines
    and distances are not finite.
    """
    array = np.asarray(values)
    if array.ndim < 2:
        return np.isfinite(np.atleast_1d(array))
    rows = array.reshape(len(array), math.prod(array.shape[1:]))
    with np.errstate(over="ignore", invalid="ignore"):
        return np.isfinite(np.einsum("ij,ij->i", rows, rows))


def require_finite(
    values: ArrayLike, what: str, *, name: Callable[[int], str] = lambda row: f"row {row}", advice: str = ""
) -> None:
    """Raises NotFiniteError, which names the first bad row, unless all rows are finite (see `finite_rows`).

    Args:
        values: numbers, [n], [n, F] or a single number.
        what: what the numbers are, in the plural, such as "the video features of the pre-trained encoder".
        name: maps a row to its name, such as the sample's source file.
        advice: what to do about it, which ends the message.
    """
    finite = finite_rows(values)
    if finite.all():
        return
    where = ""
    if np.ndim(values):
        bad = np.flatnonzero(~finite)
        where = f" for {printable(name(int(bad[0])))}"
        where += f" and {len(bad) - 1} more of {len(finite)}" if len(bad) > 1 else ""
    raise NotFiniteError(f"{what} are not finite{where}{'; ' if advice else ''}{advice}")


def require_finite_figures(result: Mapping[str, Any] | Sequence[Any], what: str) -> None:
    """Raises NotFiniteError, which names the first bad figure, unless all numbers in nested dicts and lists are finite.

    An integer beyond the range of a float is not finite.

    Args:
        what: what the numbers are, in the plural, such as "the figures of fold 2".
    """
    figures = dict(_figures(result))
    names = list(figures)
    require_finite([_as_float(value) for value in figures.values()], what, name=lambda row: names[row])


def _as_float(value: float) -> float:
    try:
        return float(value)
    except OverflowError:  # an integer beyond the largest float, which JSON can hold
        return math.inf


def _figures(value: Any, name: str = "") -> Iterator[tuple[str, float]]:
    """Yields (keys joined by dots, number) of all numbers in nested dicts and lists."""
    if isinstance(value, Mapping | list | tuple):
        for key, inner in value.items() if isinstance(value, Mapping) else enumerate(value):
            yield from _figures(inner, f"{name}.{key}" if name else str(key))
    elif isinstance(value, int | float):
        yield name, value
