"""Retrieval by class within a modality, as on UCF101 and HMDB51 (Büchler et al. 2018).

A test sample counts as a hit if a training sample of its class is among its nearest neighbours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from evaluation.features import Features, cosines, each_encoder, require_finite_features
from evaluation.notes import reportable
from evaluation.statistics import CHANCE, share_figures, standard_error
from evaluation.task import Task
from settings import ConfigError
from settings.evaluation import EvaluationConfig

RECALL_AT = (1, 5, 20)
BLOCK = 1024


def run_class_retrieval(features: Mapping[str, Features], task: Task, config: EvaluationConfig) -> list[dict[str, Any]]:
    """Recall of test samples among training samples, for each encoder and modality and for a random order.

    Raises:
        ConfigError: fewer than three training samples.
        NotFiniteError: a feature is not finite.
    """
    del config  # protocols share one signature, but retrieval has no settings
    gallery, queries = task.codes[task.train], task.codes[task.test]
    if len(gallery) < 3:
        raise ConfigError(f"retrieval needs at least three training samples, not {len(gallery)}")
    require_finite_features(features)
    ks, rows = reportable(RECALL_AT, len(gallery)), []
    for name, modality, pooled in each_encoder(features):
        hits = first_hits(pooled[task.test], queries, pooled[task.train], gallery)
        rows.append({"encoder": name, "modality": f"{modality} to {modality}"} | _recalls(hits, ks))
    chance = {f"R@{k}": float(np.mean(_chance(queries, gallery, k))) for k in ks}
    return [*rows, {"encoder": CHANCE, "modality": "random order"} | chance]


def first_hits(
    queries: np.ndarray, query_codes: np.ndarray, gallery: np.ndarray, gallery_codes: np.ndarray
) -> np.ndarray:
    """The rank, by cosine similarity, of the nearest gallery row of each query's class, int64 [n].

    Ranks start at 1; a query whose class is not in the gallery gets m + 1. On ties, rows of other classes come first,
    so that a collapsed encoder gains nothing; the similarity of a row of zeros is the lowest.

    Args:
        queries, gallery: features, [n, F] and [m, F].
        query_codes, gallery_codes: classes, int [n] and [m].

    Raises:
        NotFiniteError: a row of the features is not finite.
    """
    hits = np.empty(len(queries), dtype=np.int64)
    for first in range(0, len(queries), BLOCK):
        rows = slice(first, first + BLOCK)
        similarities = cosines(queries[rows], gallery)
        same = query_codes[rows, None] == gallery_codes[None, :]
        best = np.where(same, similarities, -np.inf).max(axis=1, keepdims=True)
        # Rounding must not break a tie in favour of the right class.
        hits[rows] = 1 + (~same & (similarities >= best - 1e-6)).sum(axis=1)
    hits[~np.isin(query_codes, gallery_codes)] = len(gallery) + 1
    return hits


def _recalls(hits: np.ndarray, ks: Sequence[int]) -> dict[str, Any]:
    recalls: dict[str, Any] = {}
    for k in ks:
        recalls |= share_figures(f"R@{k}", hits <= k)
    return recalls | {"standard_error": standard_error(recalls["R@1"], len(hits))}


def _chance(query_codes: np.ndarray, gallery_codes: np.ndarray, k: int) -> np.ndarray:
    """Probability that k random rows of the gallery contain the query's class, float64 [n]."""
    n = len(gallery_codes)
    others = n - (query_codes[:, None] == gallery_codes[None, :]).sum(axis=1).astype(np.float64)
    drawn = np.arange(min(k, n))
    return 1 - np.prod(np.maximum(others[:, None] - drawn, 0) / (n - drawn), axis=1)
