"""Video to audio and audio to video: is a clip's own other half among the nearest?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from evaluation.features import MODALITIES, Features, unit_rows
from evaluation.statistics import CHANCE, standard_error
from evaluation.task import Split
from settings import ConfigError
from settings.evaluation import EvaluationConfig

RECALL_AT = (1, 5, 10)


def run_retrieval(features: Mapping[str, Features], split: Split, config: EvaluationConfig) -> list[dict[str, Any]]:
    """Recall and median rank among the test samples, both ways, for each encoder and for a random order.

    Raises:
        ConfigError: the data lack a modality, or fewer than two test samples.
    """
    del config  # protocols share one signature; retrieval has nothing to set
    n = int(split.test.sum())
    if n < 2:
        raise ConfigError(f"retrieval needs at least two test samples, not {n}")
    rows = []
    for name, given in features.items():
        for query, key in (MODALITIES, MODALITIES[::-1]):
            if query not in given.embedding or key not in given.embedding:
                raise ConfigError("retrieval needs both video and audio; this data set lacks one of them")
            ranks = pair_ranks(given.embedding[query][split.test], given.embedding[key][split.test])
            rows.append({"encoder": name, "modality": f"{query} to {key}"} | summarise(ranks))
    chance = {f"R@{k}": min(k, n) / n for k in RECALL_AT} | {"median_rank": (n + 1) / 2}
    return [*rows, {"encoder": CHANCE, "modality": "random order"} | chance]


def pair_ranks(queries: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """int64 [n]: rank, from 1, of key i among all keys by cosine to query i.

    Keys that score the same as the right one come before it: a collapsed encoder ranks it last.
    """
    similarities = unit_rows(queries) @ unit_rows(keys).T
    own = np.diagonal(similarities)[:, None]
    # Rounding must not break a tie in favour of the right key.
    return (similarities >= own - 1e-6).sum(axis=1)


def summarise(ranks: np.ndarray) -> dict[str, float]:
    """Recall at RECALL_AT with the standard error of R@1, and the median rank."""
    recalls = {f"R@{k}": float(np.mean(ranks <= k)) for k in RECALL_AT}
    return recalls | {
        "standard_error": standard_error(recalls["R@1"], len(ranks)),
        "median_rank": float(np.median(ranks)),
    }
