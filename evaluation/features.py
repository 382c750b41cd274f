"""Features of samples under frozen encoders, from evenly spaced test clips."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from torch import nn

from common.finite import require_finite
from common.phases import begin
from common.progress import show_progress
from pipeline.batch import Batch
from pipeline.load.clip_loader import ClipLoader
from settings.evaluation import EvaluationConfig

MODALITIES = ("video", "audio")


class QueryEncoders(Protocol):
    """A CrossModalModel, or any other object with encoders by modality."""

    @property
    def query(self) -> nn.ModuleDict:
        """The encoders, by modality."""


@dataclass(frozen=True, kw_only=True)
class Features:
    """Features of n samples under one model, by modality; a modality that the data or the model lack is absent."""

    pooled: dict[str, np.ndarray] = field(default_factory=dict)
    """Backbone features, float32 [n, F], averaged over clips; with several slots (see `extract`), [n, slots x F]."""
    embedding: dict[str, np.ndarray] = field(default_factory=dict)
    """Embeddings, float32 [n, D]: the clips' unit vectors, averaged."""


def test_clips(loader: ClipLoader, ids: np.ndarray, settings: EvaluationConfig) -> Iterator[Batch]:
    """The evenly spaced test clips of the samples `ids`, int64 [n], with a display of the progress."""
    per_sample = settings.clips * settings.crops
    full, rest = divmod(len(ids), loader.batch_size)
    total = full * per_sample + math.ceil(rest * per_sample / loader.batch_size)
    batches = loader.uniform_clips(ids, clips=settings.clips, crops=settings.crops)
    return show_progress(batches, total=total, unit="batches of test clips")


def each_encoder(features: Mapping[str, Features]) -> Iterator[tuple[str, str, np.ndarray]]:
    """Yields (encoder, modality, features [n, F]) with a display of the progress of what is done with them."""
    found = [(name, modality, x) for name, encoded in features.items() for modality, x in encoded.pooled.items()]
    for name, modality, x in show_progress(found, total=len(found), unit="probes"):
        # A fit may take minutes, during which nothing else would say what goes on.
        begin(f"fitting the probe of {name}, {modality}", quietly=True)
        yield name, modality, x


@torch.no_grad()
def extract(
    models: Mapping[str, QueryEncoders], batches: Iterable[Batch], ids: np.ndarray, *, slots: int = 1
) -> dict[str, Features]:
    """Features of samples under several models, in one pass over their test clips.

    Args:
        models: name -> model in eval mode, on the device of the batches.
        batches: `loader.uniform_clips(ids, clips=...)`.
        ids: int64 [n], distinct; row i of the features is sample ids[i].
        slots: 1 averages the clips of a sample; the number of clips concatenates them in temporal order instead.
    """
    order = np.argsort(ids)
    sums: dict[tuple[str, str, str], torch.Tensor] = {}
    clips = torch.zeros(len(ids), dtype=torch.int64)
    for batch in batches:
        rows = order[np.searchsorted(ids[order], batch.ids.numpy())].tolist()
        places = []
        for row in rows:
            places.append(row * slots + int(clips[row]) % slots)
            clips[row] += 1
        where = torch.tensor(places)
        for modality in MODALITIES:
            stream = getattr(batch, modality)
            if stream is None:
                continue
            for name, model in models.items():
                if modality not in model.query:
                    continue
                out = model.query[modality](stream)
                for kind, values in (("pooled", out.features), ("embedding", out.embedding)):
                    values = values.float().cpu()
                    key = (name, modality, kind)
                    if key not in sums:
                        sums[key] = torch.zeros(len(ids) * slots, values.shape[1])
                    sums[key].index_add_(0, where, values)
    features = {name: Features() for name in models}
    for (name, modality, kind), total in sums.items():
        by_sample = total.view(len(ids), slots, -1) * (slots / clips[:, None, None])
        rows_of = by_sample.flatten(1) if kind == "pooled" else by_sample.mean(dim=1)
        getattr(features[name], kind)[modality] = rows_of.numpy()
    return features


def require_finite_features(
    features: Mapping[str, Features], *, name: Callable[[int], str] = lambda row: f"row {row}"
) -> None:
    """Raises NotFiniteError, which names the first bad sample, unless all features and embeddings are finite.

    Args:
        name: maps a row of the features to the sample's name.
    """
    for model, encoded in features.items():
        for kind, by_modality in (("features", encoded.pooled), ("embeddings", encoded.embedding)):
            for modality, rows in by_modality.items():
                advice = "the run has probably diverged; evaluate an earlier checkpoint"
                require_finite(rows, f"the {modality} {kind} of the {model} encoder", name=name, advice=advice)


def unit_rows(rows: np.ndarray) -> np.ndarray:
    """The rows scaled to length 1, float64 [n, D]; rows of zeros stay zeros."""
    rows = rows.astype(np.float64)
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)


def cosines(queries: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """Cosine similarities of the rows, float64 [n, m]; -inf where a row is zero, which has no direction.

    Raises:
        NotFiniteError: a row is not finite.
    """
    require_finite(queries, "the embeddings of the queries")
    require_finite(keys, "the embeddings of the keys")
    similarities = unit_rows(queries) @ unit_rows(keys).T
    similarities[~queries.any(axis=1)] = -np.inf
    similarities[:, ~keys.any(axis=1)] = -np.inf
    return similarities
