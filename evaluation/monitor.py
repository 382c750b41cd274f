"""Monitors the encoders during training: nearest-neighbour accuracy, and whether the embeddings collapse."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import takewhile
from typing import Any

import numpy as np
import torch
from torch import nn

from common.finite import finite_rows
from common.terminal import printable
from evaluation.features import extract
from model.encoder import CrossModalModel
from pipeline.loader import make_loader
from pipeline.plan.order import global_order
from pipeline.plan.selection import Selection
from settings import Config, ConfigError
from settings.load import format_names

log = logging.getLogger(__name__)


class Monitor:
    """Measures the query encoders on a fixed set of labelled samples, with one centre clip each.

    Measuring does not affect the run: encoders work in eval mode without gradients and return to their previous mode,
    clips come from a separate loader, and no random number is drawn. Each rank encodes its part of the samples.

    Args:
        config: the sections monitor, data, clip, audio and model and the seed are used.
        device: device of the encoders.
        rank, world_size: this process and the number of processes.
        gather: returns the list of all ranks' objects on every rank.

    Raises:
        ConfigError: monitor.label is not a label column of the data, or too few samples have such a label.
    """

    def __init__(
        self,
        config: Config,
        *,
        device: torch.device,
        rank: int = 0,
        world_size: int = 1,
        gather: Callable[[Any], list[Any]] = lambda value: [value],
    ) -> None:
        self._settings, self._rank, self._gather = config.monitor, rank, gather
        # All splits, and each video with its own audio even where training shuffles the pairs.
        data = config.data.without_split(path=config.monitor.data or config.data.path)
        config = replace(config.for_evaluation(), data=data)
        self._loader = make_loader(config, device=str(device), rank=rank, world_size=world_size)
        dataset = self._loader.dataset
        if config.monitor.label not in dataset.label_columns:
            columns = format_names(dataset.label_columns)
            raise ConfigError(
                f"monitor.label={config.monitor.label!r} is not a label column of {data.path}; it has: {columns}"
            )
        labels = np.asarray(dataset.labels(config.monitor.label))
        known = Selection(len(labels), lambda part: labels[part] >= 0)
        order = global_order(len(known), seed=config.seed, epoch=0, purpose="monitor", last=config.monitor.samples)
        ids = np.sort(known[order])
        if len(ids) <= config.monitor.neighbours:
            raise ConfigError(
                f"{data.path} has {len(ids)} samples with a label {config.monitor.label!r}; the monitor needs more "
                f"than monitor.neighbours={config.monitor.neighbours}"
            )
        self._mine = ids[rank::world_size]
        self._labels = labels

    def measure(self, model: CrossModalModel, stopping: Callable[[], bool] = lambda: False) -> dict[str, float]:
        """Accuracy of the query encoders' features, and effective rank of their embeddings.

        All ranks must call it together. Rank 0 warns if the effective rank is too low.

        Args:
            stopping: whether this process was asked to stop; the measurement then ends early on all ranks.

        Returns:
            {} if any rank is stopping; otherwise
            monitor/knn_video, monitor/knn_audio; monitor/majority, the accuracy of always naming the most frequent
            class; monitor/rank_video, monitor/rank_audio; monitor/seconds. The same on all ranks. For a modality with
            a feature that is not finite, knn and rank are not available and left out; rank 0 warns.
        """
        began = time.perf_counter()
        with _eval_mode(model):
            clips = self._loader.uniform_clips(self._mine, clips=1)
            mine = extract({"": model}, takewhile(lambda _: not stopping(), clips), self._mine)[""]
        everyone = self._gather((self._mine, mine, stopping()))
        if any(stopped for *_, stopped in everyone):
            return {}
        # With fewer samples than ranks, some ranks have no features.
        shares = [(ids, features) for ids, features, _ in everyone if len(ids)]
        labels = self._labels[np.concatenate([ids for ids, _ in shares])]
        numbers = {"monitor/majority": float(np.bincount(labels).max()) / len(labels)}
        for modality in shares[0][1].pooled:
            features = np.concatenate([share.pooled[modality] for _, share in shares])
            embedding = np.concatenate([share.embedding[modality] for _, share in shares])
            finite = finite_rows(features) & finite_rows(embedding)
            if not finite.all():
                self._warn_of_not_finite(modality, np.concatenate([ids for ids, _ in shares]), finite)
                continue
            numbers[f"monitor/knn_{modality}"] = knn_accuracy(features, labels, k=self._settings.neighbours)
            numbers[f"monitor/rank_{modality}"] = rank = effective_rank(embedding)
            if self._rank == 0:
                self._warn_of_collapse(modality, rank, min(embedding.shape))
        return numbers | {"monitor/seconds": time.perf_counter() - began}

    def _warn_of_not_finite(self, modality: str, ids: np.ndarray, finite: np.ndarray) -> None:
        """Warns on rank 0; `finite`, bool [n], says which of the samples `ids` have finite features."""
        if self._rank == 0:
            log.warning(
                "the %s features of %d of %d samples are not finite (the first: %s); monitor/knn_%s and "
                "monitor/rank_%s are not available at this step",
                modality,
                (~finite).sum(),
                len(ids),
                printable(self._loader.dataset.source(int(ids[~finite][0]))),
                modality,
                modality,
            )

    def _warn_of_collapse(self, modality: str, rank: float, largest: int) -> None:
        if rank < self._settings.min_rank * largest:
            log.warning(
                "the %s embeddings collapse: their effective rank is %.1f of at most %d (monitor.min_rank=%g). Look at "
                "the curve of monitor/rank_%s; a lower optim.lr, a longer optim.warmup_steps, another loss.temperature "
                "or model.head_batchnorm=true may help",
                modality,
                rank,
                largest,
                self._settings.min_rank,
                modality,
            )


def knn_accuracy(features: np.ndarray, labels: np.ndarray, *, k: int) -> float:
    """Share of the rows whose label is predicted correctly by their k nearest other rows (cosine, one vote each).

    Args:
        features: float32 [n, F], n > k. The result is NaN if any is not finite.
        labels: int [n].
    """
    if not finite_rows(features).all():
        return float("nan")
    # Imported where it is used, because it takes seconds to load.
    from sklearn.neighbors import KNeighborsClassifier

    neighbours = KNeighborsClassifier(n_neighbors=k, metric="cosine", algorithm="brute").fit(features, labels)
    # With None, scikit-learn does not count a row among its own neighbours.
    return float(np.mean(neighbours.predict(None) == labels))


def effective_rank(embedding: np.ndarray) -> float:
    """Exponential of the entropy of the normalised singular values (Roy and Vetterli, 2007); NaN for non-finite rows.

    It is 1 if all rows of [n, D] lie on one line through 0, and min(n, D) if all singular values are equal. The mean is
    not subtracted: identical rows would otherwise leave only their noise, which has full rank.
    """
    if not finite_rows(embedding).all():
        return float("nan")
    values = np.linalg.svd(embedding.astype(np.float64), compute_uv=False)
    if values.sum() == 0:
        return 0.0
    shares = values[values > 0] / values.sum()
    return float(np.exp(-(shares * np.log(shares)).sum()))


@contextmanager
def _eval_mode(module: nn.Module) -> Iterator[None]:
    before = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, training in before:
            part.training = training
