"""The curves of the page: panels with at most so many points, which keep every extreme."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from training.report.panels import Panel, panels_of, smoothed
from training.report.runs import Run

MAX_POINTS = 2000
"""Largest number of points of a curve."""
ALL_POINTS = 36_000
"""Largest number of points of all curves, at about 16 bytes each: the page stays below 2 MB."""
FEWEST_TO_SMOOTH = 60
"""Shorter curves are shown as they are, without averages."""


def panel_data(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Returns the panels as plain values for JSON.

    Each curve has `run` (its number), `label` and `line` (number of its line style), the logged values as `x` and `y`
    and, where averages are drawn, those as `mean_x` and `mean_y`. A value that is not finite is None: a gap.

    Raises:
        ReportError: no metric has a finite value.
    """
    panels = panels_of(runs)
    curves = sum(metric in run.curves for panel in panels for metric, _ in panel.curves for run in runs)
    points = min(MAX_POINTS, max(ALL_POINTS // curves, 20))
    return [
        {
            "title": panel.title,
            "percent": panel.percent,
            "log": panel.log,
            "curves": [
                {"run": number, "label": label, "line": line} | _curve(*run.curves[metric], panel, points=points)
                for number, run in enumerate(runs)
                for line, (metric, label) in enumerate(panel.curves)
                if metric in run.curves
            ],
        }
        for panel in panels
    ]


def _curve(steps: np.ndarray, values: np.ndarray, panel: Panel, *, points: int) -> dict[str, Any]:
    if not panel.smooth or len(values) < FEWEST_TO_SMOOTH:
        kept = thin(values, points)
        return {"x": _steps(steps[kept]), "y": _numbers(values[kept])}
    rows = np.unique(np.linspace(0, len(values) - 1, min(points // 6, 200)).round().astype(int))
    kept = thin(values, points - len(rows))
    return {
        "x": _steps(steps[kept]),
        "y": _numbers(values[kept]),
        "mean_x": _steps(steps[rows]),
        "mean_y": _numbers(smoothed(values, rows)),
    }


def thin(values: np.ndarray, points: int) -> np.ndarray:
    """Returns at most about `points` rows, ascending: the first, the last, and of each stretch the lowest, the highest
    and, as it makes a gap, one that is not finite.

    Args:
        values: [n], which may not be finite.
    """
    n = len(values)
    if n <= points:
        return np.arange(n)
    width = -(-n // max((points - 2) // 2, 1))
    padded = np.append(values, np.full(-n % width, values[-1])).reshape(-1, width)
    finite = np.isfinite(padded)
    starts = np.arange(len(padded)) * width
    kept = [np.array([0, n - 1])]
    for score in (np.where(finite, padded, np.inf).argmin(axis=1), np.where(finite, padded, -np.inf).argmax(axis=1)):
        kept.append(np.minimum(starts + score, n - 1))
    gaps = ~finite.all(axis=1)
    kept.append(np.minimum(starts + (~finite).argmax(axis=1), n - 1)[gaps])
    return np.unique(np.concatenate(kept))


def _steps(steps: np.ndarray) -> list[float]:
    return [int(step) if step.is_integer() else step for step in steps.tolist()]


def _numbers(values: Iterable[float]) -> list[float | None]:
    """Numbers with seven digits, as short as JSON allows."""
    short = (float(f"{value:.7g}") for value in values)
    return [None if not math.isfinite(v) else int(v) if v.is_integer() and abs(v) < 1e15 else v for v in short]
