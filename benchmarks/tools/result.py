"""Computes and writes the result of a benchmark."""

from __future__ import annotations

import json
import math
import statistics
from pathlib import Path
from typing import Any

from common.finite import NotFiniteError, require_finite, require_finite_figures


class ResultError(ValueError):
    """A file is not the result of a benchmark; the message is for the user."""


def medians(runs: list[dict[str, float]]) -> dict[str, float]:
    """The median of each figure over the runs, all of which have figures of the same names.

    Raises:
        NotFiniteError: a figure is not finite.
    """
    for name in runs[0]:
        require_finite([run[name] for run in runs], f"the values of {name}", name=lambda run: f"run {run + 1}")
    return {name: statistics.median(run[name] for run in runs) for name in runs[0]}


def ratio(value: float, base: float, what: str) -> float:
    """Returns value / base.

    Raises:
        NotFiniteError: the ratio is not finite, as after a division by 0.
    """
    if base == 0 or not math.isfinite(value / base):
        raise NotFiniteError(f"{what} is not finite: {value} divided by {base}")
    return value / base


def median_ratio(ratios: list[float]) -> dict[str, float]:
    """The median of at least two ratios, each of two measurements made one after the other, with its standard error."""
    # For normally distributed values, the standard error of a median is about 1.25 times that of the mean.
    error = 1.25 * statistics.stdev(ratios) / math.sqrt(len(ratios))
    return {"ratio": statistics.median(ratios), "standard_error": error}


def publish(result: dict[str, Any], path: Path | None) -> None:
    """Prints a result as JSON and writes it to `path` unless that is None.

    Raises:
        NotFiniteError: a figure is not finite; nothing is printed or written.
    """
    require_finite_figures(result, "the figures of the result")
    print(json.dumps(result, indent=1))
    if path is not None:
        write(result, path)


def write(result: dict[str, Any], path: Path) -> None:
    """Writes a result as JSON.

    Raises:
        NotFiniteError: a figure is not finite; nothing is written.
    """
    require_finite_figures(result, "the figures of the result")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n")


def read(path: Path) -> dict[str, Any]:
    """Reads a result.

    Raises:
        ResultError: the file does not hold a JSON object.
        NotFiniteError: a figure is not finite.
    """
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ResultError(f"{path} is not a result of a benchmark: {error}") from None
    if not isinstance(result, dict):
        raise ResultError(f"{path} is not a result of a benchmark: it holds no JSON object")
    require_finite_figures(result, f"the figures of {path}")
    return result
