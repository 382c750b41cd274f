"""Accuracies with their uncertainty, as rows of the report."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from evaluation.task import Task

CHANCE = "chance"


def standard_error(share: float, n: int) -> float:
    """Of a share observed in n independent trials (binomial)."""
    return math.sqrt(share * (1 - share) / n)


def accuracy_row(encoder: str, modality: str, correct: np.ndarray) -> dict[str, Any]:
    """`correct` is bool [n] over the test samples."""
    accuracy = float(np.mean(correct))
    return {
        "encoder": encoder,
        "modality": modality,
        "accuracy": accuracy,
        "standard_error": standard_error(accuracy, len(correct)),
    }


def majority_row(task: Task) -> dict[str, Any]:
    """Always answering the training part's most frequent class."""
    accuracy = task.majority_accuracy()
    return {
        "encoder": CHANCE,
        "modality": "majority class",
        "accuracy": accuracy,
        "standard_error": standard_error(accuracy, int(task.test.sum())),
    }
