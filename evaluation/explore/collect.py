"""Collects the content of the page: embeddings, their map, nearest neighbours, and the dictionaries."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE

from common.finite import require_finite
from evaluation.explore.page import Clip, Page
from evaluation.features import MODALITIES, extract, require_finite_features, unit_rows
from model.encoder import CrossModalModel
from pipeline.batch import Batch, pixels
from pipeline.load.clip_loader import select_split
from pipeline.load.dali_loader import DaliLoader
from pipeline.plan.order import global_order
from settings import ConfigError
from training.checkpoint import find, model_of, read

NEIGHBOURS = 8
Method = Literal["tsne", "pca"]


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """The samples that the page shows."""

    ids: np.ndarray
    """int64 [n], ascending."""
    active: dict[str, np.ndarray]
    """Modality -> int64 ids in its dictionary, limited to those that the page shows."""
    random: dict[str, np.ndarray]
    """Modality -> as many ids, drawn uniformly from the training samples, for comparison."""
    held: dict[str, int]
    """Modality -> how many clips its dictionary holds."""


def explore(run: Path, *, data: str, samples: int, method: Method) -> Page:
    """The page for `run` on the shards `data`.

    Raises:
        CheckpointError, ConfigError, ManifestError, SampleError: the run, an argument or the data cannot be used.
        NotFiniteError: an embedding is not finite; the message names the sample.
    """
    if samples < 8:
        raise ConfigError(f"--samples must be at least 8, not {samples}")
    state = read(find(run))
    config, model = model_of(state, source=str(run))
    source = config.data.without_split(path=data, loader="dali", labels="", max_bad_fraction=0.0)
    loader = DaliLoader(config=replace(config, data=source), batch_size=16)
    if not (loader.has_video and loader.has_audio):
        raise ConfigError(f"{data}: the page needs video and audio in every sample; prepare with streams=both")
    same_data = state["data"] == loader.dataset.fingerprint
    held = {m: state["active"][m]["dictionary.ids"].numpy() for m in MODALITIES} if same_data else {}
    trained_on = select_split(loader.dataset, config.data.split) if same_data else loader.ids
    chosen = choose(held, trained_on, everything=loader.ids, samples=samples, seed=config.seed)
    if len(chosen.ids) < 8:
        raise ConfigError(f"{data} has {len(chosen.ids)} samples; a map needs at least 8")
    embedding, clips = _embed(loader, model, chosen.ids)
    return Page(
        title=f"{run.resolve().name}, step {state['step']}",
        notes=_notes(chosen, loader, method, same_data),
        columns=_columns(loader, chosen.ids),
        clips=clips,
        sample_rate=config.audio.sample_rate,
        maps={m: project(embedding[m], method=method, seed=config.seed) for m in MODALITIES},
        nearest={(a, b): nearest(embedding[a], embedding[b]) for a in MODALITIES for b in MODALITIES},
        active={m: np.searchsorted(chosen.ids, ids) for m, ids in chosen.active.items()},
        random={m: np.searchsorted(chosen.ids, ids) for m, ids in chosen.random.items()},
    )


def choose(
    held: dict[str, np.ndarray], trained_on: np.ndarray, *, everything: np.ndarray, samples: int, seed: int
) -> Chosen:
    """Chooses at most `samples` ids: up to a fifth from each dictionary, as many random ones, and others at random.

    Args:
        held: modality -> ids in its dictionary, -1 for empty rows.
        trained_on: ids that the run was trained on.
        everything: all ids of the data set.
    """

    def draw(ids: np.ndarray, count: int, purpose: str) -> np.ndarray:
        return ids[global_order(len(ids), seed=seed, epoch=0, purpose=f"explore {purpose}")[:count]]

    filled = {modality: ids[ids >= 0] for modality, ids in held.items()}
    filled = {modality: ids for modality, ids in filled.items() if len(ids)}
    active = {m: np.sort(draw(ids, samples // 5, f"active {m}")) for m, ids in filled.items()}
    random = {m: np.sort(draw(trained_on, len(ids), f"random {m}")) for m, ids in active.items()}
    first = np.unique(np.concatenate([np.zeros(0, np.int64), *active.values(), *random.values()]))
    others = draw(np.setdiff1d(everything, first), samples - len(first), "others")
    ids = np.sort(np.concatenate([first, others]))
    return Chosen(ids=ids, active=active, random=random, held={m: len(ids) for m, ids in filled.items()})


def project(embedding: np.ndarray, *, method: Method, seed: int) -> np.ndarray:
    """Projects embeddings, float32 [n, D], to a map with coordinates in [0, 1], float64 [n, 2].

    Raises:
        NotFiniteError: an embedding is not finite.
    """
    require_finite(embedding, "the embeddings")
    if method == "pca":
        flat = PCA(n_components=2, random_state=seed).fit_transform(embedding)
    else:
        # t-SNE requires a perplexity below the number of points.
        perplexity = min(30.0, (len(embedding) - 1) / 3)
        flat = TSNE(perplexity=perplexity, init="pca", metric="cosine", random_state=seed).fit_transform(embedding)
    low, high = flat.min(axis=0), flat.max(axis=0)
    return (flat - low) / np.maximum(high - low, 1e-12)


def nearest(queries: np.ndarray, keys: np.ndarray) -> list[list[tuple[int, float]]]:
    """For each row of `queries` [n, D], the NEIGHBOURS nearest rows of `keys` [n, D] as (row, cosine similarity).

    If both are the same array, a row is not its own neighbour.

    Raises:
        NotFiniteError: a row is not finite.
    """
    require_finite(queries, "the embeddings of the queries")
    require_finite(keys, "the embeddings of the keys")
    cosines = unit_rows(queries) @ unit_rows(keys).T
    if queries is keys:
        np.fill_diagonal(cosines, -np.inf)
    order = np.argsort(-cosines, axis=1, kind="stable")[:, : min(NEIGHBOURS, len(keys) - 1)]
    return [[(int(k), float(cosines[i, k])) for k in row] for i, row in enumerate(order)]


def _embed(loader: DaliLoader, model: CrossModalModel, ids: np.ndarray) -> tuple[dict[str, np.ndarray], list[Clip]]:
    """Embeddings of the samples' middle clips, by modality, and the clips themselves (middle frame and audio)."""
    clips: list[Clip] = []

    def collected() -> Iterator[Batch]:
        for batch in loader.uniform_clips(ids, clips=1):
            assert batch.video is not None
            assert batch.plan is not None
            middle = batch.video.shape[2] // 2
            pictures = pixels(batch.video[:, :, middle : middle + 1])[:, 0]
            for i, picture, pcm in zip(batch.ids.tolist(), pictures, loader.waveforms(batch.plan), strict=True):
                clips.append(Clip(sample=i, source=loader.dataset.source(i), picture=picture, pcm=pcm))
            yield batch

    features = extract({"trained": model}, collected(), ids)
    require_finite_features(features, name=lambda row: loader.dataset.source(int(ids[row])))
    return features["trained"].embedding, clips


def _columns(loader: DaliLoader, ids: np.ndarray) -> dict[str, list[str]]:
    """Label column -> the label of each of `ids`; empty text where it is unknown."""
    columns = {}
    for column in loader.dataset.label_columns:
        names, codes = loader.dataset.label_names(column), loader.dataset.labels(column)[ids]
        columns[column] = [names[code] if code >= 0 else "" for code in codes]
    return columns


def _notes(chosen: Chosen, loader: DaliLoader, method: Method, same_data: bool) -> list[str]:
    total = len(loader.ids)
    shown = f"{len(chosen.ids)} of {total} samples" if len(chosen.ids) < total else f"all {total} samples"
    notes = [f"{shown}, the middle clip of each; {'t-SNE' if method == 'tsne' else 'PCA'} of the embeddings."]
    for modality, ids in chosen.active.items():
        notes.append(
            f"{modality} dictionary: {len(ids)} of the {chosen.held[modality]} clips it holds, compared with "
            f"{len(chosen.random[modality])} drawn at random from the training samples."
        )
    if not same_data:
        notes.append("The dictionaries are not shown: the run was trained on different data.")
    elif not chosen.active:
        notes.append("The dictionaries are not shown: they are still empty at this step.")
    return notes
