"""Collects the content of the page: embeddings, their map, nearest neighbours, and the dictionaries."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from evaluation.explore.geometry import Method, clusters, nearest, project
from evaluation.explore.media import opus, shrink, strip, thumbnail_pixels
from evaluation.explore.page import Clip, Media, Page
from evaluation.features import MODALITIES, extract, require_finite_features
from model.encoder import CrossModalModel
from pipeline.batch import Batch, pixels
from pipeline.load.dali_loader import DaliLoader
from pipeline.load.sets import select_split
from pipeline.plan.order import global_order
from settings import ConfigError
from training.checkpoint import find, model_of, read

log = logging.getLogger(__name__)

MOST_SAMPLES = 20_000
"""Largest page: above it the maps no longer move smoothly, and browsers take long to open the file."""
MOST_MEDIA = 5_000
"""Most clips that play: their frames and sound take about 100 MB."""


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

    def playing(self, most: int, *, seed: int) -> np.ndarray:
        """At most `most` ids whose frames and sound the page holds: those of the dictionaries first."""
        compared = np.isin(self.ids, np.concatenate([np.zeros(0, np.int64), *self.active.values()]))
        order = global_order(len(self.ids), seed=seed, epoch=0, purpose="explore media")
        return self.ids[order[np.argsort(~compared[order], kind="stable")][:most]]


def explore(run: Path, *, data: str, samples: int, media: int, method: Method) -> Page:
    """The page for `run` on the shards `data`, with at most `samples` clips, `media` of which play.

    Raises:
        CheckpointError, ConfigError, ManifestError, SampleError: the run, an argument or the data cannot be used.
        NotFiniteError: an embedding is not finite; the message names the sample.
    """
    if not 8 <= samples <= MOST_SAMPLES:
        raise ConfigError(f"--samples must be from 8 to {MOST_SAMPLES:,}, not {samples:,}")
    if not 0 <= media <= MOST_MEDIA:
        raise ConfigError(f"--media must be from 0 to {MOST_MEDIA:,}, not {media:,}")
    state = read(find(run))
    config, model = model_of(state, source=str(run))
    source = config.data.without_split(path=data, loader="dali", labels="", max_bad_fraction=0.0)
    loader = DaliLoader(config=replace(config.for_evaluation(), data=source), batch_size=16)
    if not (loader.has_video and loader.has_audio):
        raise ConfigError(f"{data}: the page needs video and audio in every sample; prepare with streams=both")
    same_data = state["data"] == loader.dataset.fingerprint
    held = {}
    if same_data:
        negatives = "pool.ids" if config.dictionary.whole_pool else "dictionary.ids"
        ids = {m: state["active"][m][negatives].numpy() for m in MODALITIES}
        held = {m: _samples_of(clips, config.clip.per_sample) for m, clips in ids.items()}
    trained_on = np.asarray(select_split(loader.dataset, config.data.split)) if same_data else loader.ids
    chosen = choose(held, trained_on, everything=loader.ids, samples=samples, seed=config.seed)
    if len(chosen.ids) < 8:
        raise ConfigError(f"{data} has {len(chosen.ids)} samples; a map needs at least 8")
    log.info("embedding %d clips", len(chosen.ids))
    playing = chosen.playing(media, seed=config.seed)
    embedding, clips = _embed(loader, model, chosen.ids, playing=set(playing.tolist()))
    log.info("projecting the embeddings with %s and comparing them", method)
    return Page(
        title=f"{run.resolve().name}, step {state['step']}",
        notes=_notes(chosen, len(playing), loader, method, same_data),
        columns=_columns(loader, chosen.ids),
        clusters={m: clusters(embedding[m], seed=config.seed) for m in MODALITIES},
        clips=clips,
        seconds=config.clip.seconds,
        maps={m: project(embedding[m], method=method, seed=config.seed) for m in MODALITIES},
        nearest={(a, b): nearest(embedding[a], embedding[b]) for a in MODALITIES for b in MODALITIES},
        active={m: np.searchsorted(chosen.ids, ids) for m, ids in chosen.active.items()},
        random={m: np.searchsorted(chosen.ids, ids) for m, ids in chosen.random.items()},
    )


def _samples_of(clips: np.ndarray, per_sample: int) -> np.ndarray:
    """The distinct sample ids of clip ids, of which a sample has `per_sample`."""
    return clips if per_sample == 1 else np.unique(clips // per_sample)


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
        return ids[global_order(len(ids), seed=seed, epoch=0, purpose=f"explore {purpose}", last=count)]

    filled = {modality: ids[ids >= 0] for modality, ids in held.items()}
    filled = {modality: ids for modality, ids in filled.items() if len(ids)}
    active = {m: np.sort(draw(ids, samples // 5, f"active {m}")) for m, ids in filled.items()}
    random = {m: np.sort(draw(trained_on, len(ids), f"random {m}")) for m, ids in active.items()}
    first = np.unique(np.concatenate([np.zeros(0, np.int64), *active.values(), *random.values()]))
    others = draw(np.setdiff1d(everything, first), samples - len(first), "others")
    ids = np.sort(np.concatenate([first, others]))
    return Chosen(ids=ids, active=active, random=random, held={m: len(ids) for m, ids in filled.items()})


def _embed(
    loader: DaliLoader, model: CrossModalModel, ids: np.ndarray, *, playing: set[int]
) -> tuple[dict[str, np.ndarray], list[Clip]]:
    """Embeddings of the samples' middle clips, by modality, and the clips themselves."""
    clips: list[Clip] = []
    side, rate = thumbnail_pixels(len(ids)), loader.config.audio.sample_rate

    def collected() -> Iterator[Batch]:
        for batch in loader.uniform_clips(ids, clips=1):
            assert batch.video is not None
            assert batch.plan is not None
            lead = batch.plan.start - batch.plan.audio_start / rate
            waveforms = loader.waveforms(batch.plan)
            for b, sample in enumerate(batch.ids.tolist()):
                frames, media = pixels(batch.video[b]), None
                if sample in playing:
                    media = Media(frames=strip(frames), sound=opus(waveforms[b], rate), lead=float(lead[b]))
                thumbnail = shrink(frames[len(frames) // 2], side)
                clips.append(
                    Clip(sample=sample, source=loader.dataset.source(sample), thumbnail=thumbnail, media=media)
                )
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


def _notes(chosen: Chosen, playing: int, loader: DaliLoader, method: Method, same_data: bool) -> list[str]:
    total = len(loader.ids)
    shown = f"{len(chosen.ids)} of {total} samples" if len(chosen.ids) < total else f"all {total} samples"
    notes = [f"{shown}, the middle clip of each; {'t-SNE' if method == 'tsne' else 'PCA'} of the embeddings."]
    if playing < len(chosen.ids):
        notes.append(
            f"{playing} of these clips play; the others show a still picture, because each clip that plays adds about "
            "20 kB to the page (--media)."
        )
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
