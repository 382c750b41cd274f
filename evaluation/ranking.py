"""Figures of multi-label classification: average precision, area under the ROC curve, and d-prime, means over classes.

They are AudioSet's (Gemmeke et al. 2017) and VGGSound's (Chen et al. 2020; `eval.py` of its repository). Every sample
may be drawn several times or not at all, as the bootstrap does; drawn once each, the figures are scikit-learn's.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import NormalDist
from typing import Any

import numpy as np

from common.finite import require_finite
from common.progress import show_progress
from evaluation.statistics import RESAMPLES, around, resamples


class Ranking:
    """The samples sorted by the score of each class, the highest first; samples of equal score share a rank.

    Args:
        scores: [n, classes].
        targets: the classes of each sample, bool [n, classes].

    Raises:
        NotFiniteError: a score is not finite.
    """

    def __init__(self, scores: np.ndarray, targets: np.ndarray) -> None:
        require_finite(scores, "the scores")
        # Of each class: the samples by rank, the ranks of the positive ones, and the first and last rank of their tie.
        self._orders: list[np.ndarray] = []
        self._positives: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        for score, target in zip(scores.T, targets.T, strict=True):
            order = np.argsort(-score, kind="stable")
            ranks = np.flatnonzero(target[order])
            falling = -score[order]
            first, last = (np.searchsorted(falling, falling[ranks], side=side) for side in ("left", "right"))
            self._orders.append(order)
            self._positives.append((ranks, first, last - 1))

    def figures(self, drawn: np.ndarray) -> np.ndarray:
        """Average precision and area under the ROC curve of each class, float64 [classes, 2].

        They are NaN if no positive sample is drawn, and the area also if no negative one is.

        Args:
            drawn: how often each sample counts, int [n].
        """
        figures = np.full((len(self._orders), 2), np.nan)
        for row, order, (ranks, first, last) in zip(figures, self._orders, self._positives, strict=True):
            counts = drawn[order]
            weights = counts[ranks]
            positives = weights.sum()
            if positives == 0:
                continue
            upto = np.cumsum(counts)
            hits = np.zeros(len(counts), dtype=counts.dtype)
            hits[ranks] = weights
            hits = np.cumsum(hits)
            row[0] = (weights * hits[last] / np.maximum(upto[last], 1)).sum() / positives
            misses, negatives = upto - hits, upto[-1] - positives
            if negatives:
                # A negative of equal score counts as half above; `misses` is the same before and at a positive's rank.
                before = np.where(first > 0, misses[first - 1], 0)
                row[1] = 1 - (weights * (before + misses[last]) / 2).sum() / (positives * negatives)
        return figures


def d_prime(auc: float) -> float:
    """The distance of two unit normal distributions whose ROC curve has this area; limited for areas of 0 and 1."""
    return NormalDist().inv_cdf(min(max(auc, 1e-9), 1 - 1e-9)) * 2**0.5


def ranking_figures(scores: np.ndarray, targets: np.ndarray, *, seed: int) -> dict[str, Any]:
    """mAP, AUC and d-prime of the mean AUC, with bootstrap intervals over the samples.

    Args:
        scores: [n, classes].
        targets: the classes of each sample, bool [n, classes], each class with a positive and a negative sample.

    Raises:
        NotFiniteError: a score is not finite.
    """
    n = len(scores)
    ranking = Ranking(scores, targets)
    mean_ap, auc = np.mean(ranking.figures(np.ones(n, dtype=np.int64)), axis=0)
    draws = show_progress(resamples(n, seed=seed, purpose="ranking"), total=RESAMPLES, unit="resamples")
    # A class that a resample lacks is left out of its mean.
    found = np.array([_mean_of_finite(ranking.figures(drawn)) for drawn in draws])
    aps, aucs = (around(float(value), values) for value, values in zip((mean_ap, auc), found.T, strict=True))
    return {
        "mAP": float(mean_ap),
        "mAP_interval": aps,
        "AUC": float(auc),
        "AUC_interval": aucs,
        "d_prime": d_prime(float(auc)),
        "d_prime_interval": [d_prime(bound) for bound in aucs],
    }


def chance_figures(targets: np.ndarray) -> dict[str, float]:
    """The expected figures of a random order.

    At rank k, a positive sample has a precision of (1 + (k - 1) q) / k on average, where q is the share of the positive
    ones among the others; each rank is equally likely. With many samples, that is the share of positive samples.

    Args:
        targets: the classes of each sample, bool [n, classes], n > 1.
    """
    n = len(targets)
    others = (targets.sum(axis=0) - 1) / (n - 1)
    first = (1 / np.arange(1, n + 1)).mean()
    return {"mAP": float(np.mean(others + (1 - others) * first)), "AUC": 0.5, "d_prime": 0.0}


def measurable(train: np.ndarray, test: np.ndarray) -> np.ndarray:
    """The classes with a training sample, and a positive and a negative test sample, bool [classes].

    Args:
        train, test: the classes of each sample, bool [n, classes].
    """
    return np.asarray(train.any(axis=0) & test.any(axis=0) & ~test.all(axis=0))


def left_out(kept: np.ndarray, *, label: str) -> Sequence[str]:
    """A sentence about the classes that are not measurable, if there are any; `kept` is bool [classes]."""
    if kept.all():
        return ()
    return (
        f"mAP, AUC and d-prime are means over {kept.sum()} of the {len(kept)} classes of {label}: the others have no "
        "training sample or no test sample, or every test sample.",
    )


def _mean_of_finite(figures: np.ndarray) -> np.ndarray:
    """The mean over the classes, without NaN; NaN if there is nothing else: [classes, 2] to [2]."""
    finite = np.isfinite(figures)
    with np.errstate(invalid="ignore"):
        return np.where(finite, figures, 0).sum(axis=0) / finite.sum(axis=0)
