"""The measurements of a trial: probe, retrieval, and the content of the dictionaries."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from sklearn.linear_model import RidgeClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from common.finite import require_finite
from evaluation.pair_retrieval import pair_ranks
from experiments.corpora.pairs import Corpus, Pairs
from model.encoder import OTHER_MODALITY
from training.step import MODALITIES, Learner

RETRIEVAL_PAIRS = 512
"""Number of test pairs among which retrieval is measured."""
RIDGE = 10.0
"""Strength of the probe's L2 penalty."""


def measure(learner: Learner, corpus: Corpus, *, batch_size: int) -> dict[str, Any]:
    """Measures the learner without changing it.

    Returns:
        probe (accuracy of a ridge classifier on frozen features, mean over attributes and both modalities),
        probe_video, probe_audio; retrieval (R@1 among 512 test pairs, mean of both directions); the same four with a
        prefix for each of `corpus.other_tests`; and, as means over both dictionaries: distinct (distinct contents per
        key), false_negatives (share of (query, key) pairs with the same content), mass (mean over queries of the total
        softmax probability of the negatives).

    Raises:
        NotFiniteError: an encoder's features are not finite.
    """
    was_training = learner.model.training
    learner.model.eval()
    fitted = _encode(learner, corpus.probe, batch_size)
    found = {}
    for name, pairs in {"": corpus.test, **corpus.other_tests}.items():
        tested = _encode(learner, pairs, batch_size)
        figures = _test(fitted, corpus.probe.classes, tested, pairs.classes)
        found |= {f"{name}_{key}" if name else key: value for key, value in figures.items()}
    learner.model.train(was_training)
    return found | dictionary_figures(learner, corpus.train, batch_size=batch_size)


Encoded = dict[str, tuple[np.ndarray, np.ndarray]]
"""Modality -> (features [P, F], embeddings [P, D]) of its query encoder."""


def _test(fitted: Encoded, classes: torch.Tensor, tested: Encoded, test_classes: torch.Tensor) -> dict[str, float]:
    """probe_video, probe_audio, probe and retrieval (see `measure`) on one set of test pairs."""
    for m in MODALITIES:
        require_finite(np.concatenate([fitted[m][0], tested[m][0]]), f"the {m} features of the encoder")
    found = {f"probe_{m}": _probe(fitted[m][0], classes, tested[m][0], test_classes) for m in MODALITIES}
    queries = {m: tested[m][1][:RETRIEVAL_PAIRS] for m in MODALITIES}
    ranks = [pair_ranks(queries[m], queries[OTHER_MODALITY[m]]) for m in MODALITIES]
    found["probe"] = float(np.mean(list(found.values())))
    found["retrieval"] = float(np.mean([np.mean(r == 1) for r in ranks]))
    return found


@torch.no_grad()
def dictionary_figures(learner: Learner, pairs: Pairs, *, batch_size: int) -> dict[str, float]:
    """distinct, false_negatives and mass (see `measure`), with 256 random training pairs as queries."""
    kinds = pairs.combinations()
    rows = np.random.default_rng(0).choice(len(pairs), size=min(256, len(pairs)), replace=False)
    learner.model.eval()
    encoded = [learner.model.query[m](_clips(pairs, rows, m)).embedding for m in MODALITIES]
    keys = [learner.model.key[m](_clips(pairs, rows, m)).embedding for m in MODALITIES]
    learner.model.train()
    queries = dict(zip(MODALITIES, encoded, strict=True))
    positives = dict(zip(MODALITIES, keys, strict=True))
    found: dict[str, list[float]] = {"distinct": [], "false_negatives": [], "mass": []}
    for modality in MODALITIES:
        active, other = learner.active[modality], OTHER_MODALITY[modality]
        held = active.ids >= 0
        ids = active.ids[held]
        own = ids[None, :] == torch.as_tensor(rows)[:, None]
        same = (kinds[ids][None, :] == kinds[rows][:, None]) & ~own
        found["distinct"].append(len(kinds[ids].unique()) / max(1, len(ids)))
        found["false_negatives"].append(float(same.float().mean()))
        temperature = learner.config.loss.temperature
        negative = (queries[other] @ active.keys[held].T / temperature).masked_fill(own, -torch.inf)
        positive = (queries[other] * positives[modality]).sum(1, keepdim=True) / temperature
        found["mass"].append(float(1 - torch.cat([positive, negative], dim=1).softmax(1)[:, 0].mean()))
    return {name: float(np.mean(values)) for name, values in found.items()}


def _clips(pairs: Pairs, rows: np.ndarray, modality: str) -> torch.Tensor:
    """The input of one modality's encoder for these rows."""
    return getattr(pairs.batch(rows), modality)


@torch.no_grad()
def _encode(learner: Learner, pairs: Pairs, batch_size: int) -> Encoded:
    outputs: dict[str, list[Any]] = {m: [] for m in MODALITIES}
    for rows in np.array_split(np.arange(len(pairs)), -(-len(pairs) // batch_size)):
        batch = pairs.batch(rows)
        for m in MODALITIES:
            outputs[m].append(learner.model.query[m](getattr(batch, m)))
    return {
        m: tuple(torch.cat([getattr(o, name) for o in batches]).numpy() for name in ("features", "embedding"))
        for m, batches in outputs.items()
    }


def _probe(x: np.ndarray, y: torch.Tensor, x_test: np.ndarray, y_test: torch.Tensor) -> float:
    """Mean test accuracy over the attributes (columns of y) of a linear classifier."""
    with threadpool_limits(1):
        accuracies = [
            make_pipeline(StandardScaler(), RidgeClassifier(alpha=RIDGE))
            .fit(x, y[:, column].numpy())
            .score(x_test, y_test[:, column].numpy())
            for column in range(y.shape[1])
        ]
    return float(np.mean(accuracies))
