"""Means with their uncertainty, and comparisons paired by seed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from common.finite import require_finite


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds."""

    mean: float
    half_width: float
    """Half the width of the 95 % interval (Student's t); NaN with one seed."""
    n: int

    def __str__(self) -> str:
        if math.isnan(self.half_width):
            return f"{self.mean:.3f} (1 seed)"
        return f"{self.mean:.3f} ± {self.half_width:.3f}"


def estimate(values: Sequence[float]) -> Estimate:
    """Mean and 95 % interval of independent values.

    Raises:
        NotFiniteError: a value is not finite.
    """
    require_finite(values, "the values", name=lambda i: f"value {i + 1}")
    n = len(values)
    spread = float(stats.t.ppf(0.975, n - 1) * np.std(values, ddof=1) / math.sqrt(n)) if n > 1 else math.nan
    return Estimate(float(np.mean(values)), spread, n)


@dataclass(frozen=True)
class Comparison:
    """The difference between two rules, paired by seed."""

    difference: Estimate
    p: float
    """Two-sided p of the paired t test; NaN with fewer than two common seeds."""


def compare(values: Mapping[int, float], baseline: Mapping[int, float]) -> Comparison | None:
    """Compares values (seed -> value) at the common seeds; None if there are none.

    Raises:
        NotFiniteError: a value at a common seed is not finite; the message names the seed.
    """
    seeds = sorted(set(values) & set(baseline))
    if not seeds:
        return None
    for found in (values, baseline):
        require_finite([found[seed] for seed in seeds], "the values", name=lambda i: f"seed {seeds[i]}")
    differences = [values[seed] - baseline[seed] for seed in seeds]
    if len(seeds) == 1:
        return Comparison(estimate(differences), math.nan)
    if np.ptp(differences) == 0:
        return Comparison(estimate(differences), 1.0 if differences[0] == 0 else 0.0)
    p = stats.ttest_rel([values[s] for s in seeds], [baseline[s] for s in seeds]).pvalue
    return Comparison(estimate(differences), float(p))


def holm(p_values: Sequence[float]) -> list[float]:
    """The p values adjusted for multiple comparisons (Holm, 1979), in the same order; NaN stays NaN."""
    order = sorted((i for i, p in enumerate(p_values) if not math.isnan(p)), key=lambda i: p_values[i])
    adjusted, largest = list(p_values), 0.0
    for place, i in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - place) * p_values[i]))
        adjusted[i] = largest
    return adjusted


def time_to_reach(curve: Sequence[Mapping[str, float]], target: float, *, metric: str, clock: str) -> float | None:
    """Value of `clock` at the first measurement where `metric` is at least `target`; None if it never is."""
    return next((point[clock] for point in curve if point[metric] >= target), None)
