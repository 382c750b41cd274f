"""Cross-modal retrieval: how high a sample's own audio ranks for its video, and the reverse."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from evaluation.features import MODALITIES, Features, cosines, require_finite_features
from evaluation.notes import reportable
from evaluation.statistics import CHANCE, bootstrap, share_figures, standard_error
from evaluation.task import Split
from settings import ConfigError
from settings.evaluation import EvaluationConfig

RECALL_AT = (1, 5, 10)


def run_pair_retrieval(
    features: Mapping[str, Features], split: Split, config: EvaluationConfig
) -> list[dict[str, Any]]:
    """Recall and median rank among the test samples, in both directions, for each encoder and for a random order.

    Raises:
        ConfigError: the data lack a modality, or fewer than three test samples.
        NotFiniteError: an embedding is not finite.
    """
    n = int(split.test.sum())
    if n < 3:
        raise ConfigError(f"retrieval needs at least three test samples, not {n}: a random order of two finds half")
    require_finite_features(features)
    rows = []
    for name, encoded in features.items():
        for query, key in (MODALITIES, MODALITIES[::-1]):
            if query not in encoded.embedding or key not in encoded.embedding:
                raise ConfigError("retrieval needs both video and audio; this data set lacks one of them")
            ranks = pair_ranks(encoded.embedding[query][split.test], encoded.embedding[key][split.test])
            rows.append({"encoder": name, "modality": f"{query} to {key}"} | summarise(ranks, seed=config.seed))
    chance = {f"R@{k}": k / n for k in reportable(RECALL_AT, n)} | {"median_rank": (n + 1) / 2}
    return [*rows, {"encoder": CHANCE, "modality": "random order"} | chance]


def pair_ranks(queries: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """The rank of key i among all keys by cosine similarity to query i, starting at 1, int64 [n].

    On ties, other keys come first, so that a collapsed encoder ranks the right one last; so does a row of zeros.

    Raises:
        NotFiniteError: a row is not finite. A comparison with NaN is false, so such a query would have no better key.
    """
    similarities = cosines(queries, keys)
    own = np.diagonal(similarities)[:, None]
    # Rounding must not break a tie in favour of the right key.
    return (similarities >= own - 1e-6).sum(axis=1)


def summarise(ranks: np.ndarray, *, seed: int) -> dict[str, Any]:
    """Recall at RECALL_AT, where chance is below one half, and the median rank, with their intervals.

    Args:
        ranks: of the right keys among n keys, int64 [n].
        seed: of the bootstrap.
    """
    n = len(ranks)
    figures: dict[str, Any] = {}
    for k in reportable(RECALL_AT, n):
        figures |= share_figures(f"R@{k}", ranks <= k)
    interval = bootstrap(lambda drawn: float(np.median(np.repeat(ranks, drawn))), n, seed=seed, purpose="median rank")
    return figures | {
        "standard_error": standard_error(figures["R@1"], n),
        "median_rank": float(np.median(ranks)),
        "median_rank_interval": interval,
    }
