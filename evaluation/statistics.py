"""Accuracies with their uncertainty, as rows of the report."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from common.finite import require_finite
from evaluation.task import Task

CHANCE = "chance"


def standard_error(share: float, n: int) -> float:
    """Standard error of a share observed in n independent trials (binomial)."""
    return math.sqrt(share * (1 - share) / n)


def accuracy_row(encoder: str, modality: str, correct: np.ndarray) -> dict[str, Any]:
    """The row of an encoder; `correct` is bool [n] over the test samples."""
    require_finite(correct, f"the answers of the {encoder} encoder")
    accuracy = float(np.mean(correct))
    return {
        "encoder": encoder,
        "modality": modality,
        "accuracy": accuracy,
        "standard_error": standard_error(accuracy, len(correct)),
    }


def majority_row(task: Task) -> dict[str, Any]:
    """The row of always predicting the most frequent class of the training part."""
    accuracy = task.majority_accuracy()
    return {
        "encoder": CHANCE,
        "modality": "majority class",
        "accuracy": accuracy,
        "standard_error": standard_error(accuracy, int(task.test.sum())),
    }


def over_splits(each: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    """The row of means and sample standard deviations over the splits.

    Args:
        each: for every split, its figures by name; the row's column `each` lists the values of the first figure.

    Raises:
        NotFiniteError: a figure is not finite.
    """
    row: dict[str, Any] = {}
    for name in each[0]:
        values = [float(figures[name]) for figures in each]
        require_finite(values, f"the figures of {name}", name=lambda number: f"split {number + 1}")
        row[name] = float(np.mean(values))
        if len(values) > 1:
            row[f"{name}_sd"] = float(np.std(values, ddof=1))
    if len(each) > 1:
        first = next(iter(each[0]))
        row["each"] = [float(figures[first]) for figures in each]
    return row
