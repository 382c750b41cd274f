"""Scores with their uncertainty, as rows of the report.

Two kinds of 95 % interval, over independent test samples: Wilson's for shares of samples (accuracies, R@k), which is
right even where all or none of a few samples succeed, and the bootstrap over samples for everything else.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from statistics import NormalDist
from typing import Any

import numpy as np

from common.finite import require_finite
from common.randomness import numpy_generator
from evaluation.task import Task

CHANCE = "chance"
LEVEL = 0.95
RESAMPLES = 1000


def standard_error(share: float, n: int) -> float:
    """Standard error of a share observed in n independent trials (binomial)."""
    return math.sqrt(share * (1 - share) / n)


def wilson(share: float, n: int) -> list[float]:
    """Bounds of Wilson's 95 % interval (1927) of a share observed in n independent trials.

    A mean of n values in [0, 1], such as each sample's share of right clips, may be given as `share`: its variance is
    at most that of n trials, so the interval is then at most too wide.
    """
    z = NormalDist().inv_cdf((1 + LEVEL) / 2)
    centre = share + z**2 / (2 * n)
    half = z * math.sqrt(share * (1 - share) / n + (z / (2 * n)) ** 2)
    return [max(0.0, (centre - half) / (1 + z**2 / n)), min(1.0, (centre + half) / (1 + z**2 / n))]


def resamples(n: int, *, seed: int, purpose: str) -> Iterator[np.ndarray]:
    """Yields RESAMPLES bootstrap samples of n samples: how often each is drawn, int64 [n]."""
    generator = numpy_generator(seed, 0, f"bootstrap {purpose}")
    for _ in range(RESAMPLES):
        yield np.bincount(generator.integers(0, n, size=n), minlength=n)


def percentiles(values: Sequence[float]) -> list[float]:
    """Bounds of the bootstrap's 95 % interval: percentiles of the statistic over the resamples."""
    return [float(bound) for bound in np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])]


def around(value: float, values: np.ndarray) -> list[float]:
    """Bounds of the bootstrap's normal 95 % interval of a figure in [0, 1]: the value plus and minus z deviations.

    Args:
        values: the figure of each resample, float64 [RESAMPLES]; NaN where it has none. Their mean may differ from the
            value, as that of average precision does, which grows as fewer samples are distinct.
    """
    half = NormalDist().inv_cdf((1 + LEVEL) / 2) * float(np.std(values[np.isfinite(values)]))
    return [max(0.0, value - half), min(1.0, value + half)]


def bootstrap(statistic: Callable[[np.ndarray], float], n: int, *, seed: int, purpose: str) -> list[float]:
    """Bounds of the bootstrap's 95 % interval of a statistic of n samples.

    Args:
        statistic: maps the number of times that each sample is drawn, int64 [n], to a number.
    """
    return percentiles([statistic(drawn) for drawn in resamples(n, seed=seed, purpose=purpose)])


def share_figures(name: str, hits: np.ndarray) -> dict[str, Any]:
    """The share of `hits`, bool [n] over independent samples, and its interval."""
    share = float(np.mean(hits))
    return {name: share, f"{name}_interval": wilson(share, len(hits))}


def accuracy_row(encoder: str, modality: str, correct: np.ndarray) -> dict[str, Any]:
    """The row of an encoder.

    Args:
        correct: whether each test sample was predicted rightly, [n].

    Raises:
        NotFiniteError: a value of `correct` is not finite.
    """
    require_finite(correct, f"the answers of the {encoder} encoder")
    figures = share_figures("accuracy", correct)
    error = standard_error(figures["accuracy"], len(correct))
    return {"encoder": encoder, "modality": modality} | figures | {"standard_error": error}


def majority_row(task: Task) -> dict[str, Any]:
    """The row of always predicting the most frequent class of the training part."""
    return accuracy_row(CHANCE, "majority class", task.majority_correct())


def over_splits(each: Sequence[Mapping[str, float]], *, tests: int) -> dict[str, Any]:
    """The row of means and sample standard deviations over the splits, with the interval of each mean.

    Args:
        each: for every split, its shares by name; the row's column `each` lists the values of the first share.
        tests: number of distinct test samples of all splits. Splits share training samples, so their standard
            deviation does not give an interval.

    Raises:
        NotFiniteError: a figure is not finite.
    """
    row: dict[str, Any] = {}
    for name in each[0]:
        values = [float(figures[name]) for figures in each]
        require_finite(values, f"the figures of {name}", name=lambda number: f"split {number + 1}")
        row[name] = float(np.mean(values))
        row[f"{name}_interval"] = wilson(row[name], tests)
        if len(values) > 1:
            row[f"{name}_sd"] = float(np.std(values, ddof=1))
    if len(each) > 1:
        first = next(iter(each[0]))
        row["each"] = [float(figures[first]) for figures in each]
    return row
