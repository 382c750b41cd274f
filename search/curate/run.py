"""Curates a data set: reads it, finds duplicates, trains the folds, scores the pairs and writes what was found."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from common.finite import require_finite
from common.phases import begin, hushed
from common.stores import Location
from model.encoder import CrossModalModel
from pipeline.load.dali_loader import DaliLoader
from pipeline.shards.manifest import Manifest
from search.curate.correspondence import correspondence
from search.curate.duplicates import Duplicates, find_duplicates
from search.curate.folds import assign_folds, train_folds
from search.curate.page import write_page
from search.curate.reading import Samples, read_samples
from search.curate.verdicts import Verdicts, nearest_copies, superfluous
from search.encoders import load_encoders
from settings import Config, ConfigError

log = logging.getLogger(__name__)

BATCH = 32
"""Clips that are decoded and encoded together."""
PAGE = "curate.html"
FEW_SAMPLES = 600
"""With fewer samples there are more folds."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """The command's options."""

    folds: int | None
    """Number of folds; 0 scores all pairs by the run itself, None lets `default_folds` choose."""
    steps: int
    """Training steps of each fold; 0 means as many as the epochs of the run have, but at least FEWEST_STEPS."""
    against: Location | None
    """Other shards, of which samples may be copies."""
    lowest_score: float
    """Score below which a pair counts as mismatched."""


def curate(run: Path, shards: Location, out: Path, options: Options) -> Verdicts:
    """Writes pairs.csv, leave_out.csv and curate.html to `out`.

    Raises:
        CheckpointError, ConfigError, ManifestError: the run or the data cannot be used, or a fold is refused.
        SampleError: a sample cannot be read.
        NotFiniteError: an embedding is not finite.
        FoldStopped: the training of a fold was asked to stop.
    """
    begin(f"reading {run}")
    encoders = load_encoders(run)
    config, model = encoders.config, encoders.model
    loader = _loader(config, shards)
    n = len(loader.ids)
    folds = default_folds(n) if options.folds is None else options.folds
    if n < max(8, 4 * folds):
        raise ConfigError(f"{shards} has {n} samples; curating needs at least {max(8, 4 * folds)}")
    begin(f"reading {n:,} samples")
    samples = read_samples(loader, model, loader.ids)
    duplicates, sources, splits = _duplicates(loader, samples, config, model, options)
    if folds:
        assigned = assign_folds(sources[:n], duplicates.groups[:n], folds=folds)
        folders = train_folds(
            config,
            sources[:n],
            assigned,
            shards=shards,
            fingerprint=loader.dataset.fingerprint,
            out=out / "folds",
            folds=folds,
            steps=options.steps,
        )
        scores = _held_out_scores(loader, duplicates.groups[:n], assigned, folders)
    else:
        assigned, scores = np.full(n, -1), _scores(samples, duplicates.groups[:n], config)
    require_finite(scores, "the scores", name=lambda row: sources[row])
    copies, likeness = nearest_copies(duplicates, sources)
    verdicts = Verdicts(
        sources=sources[:n],
        splits=splits[:n],
        folds=assigned,
        scores=scores,
        loudness=samples.loudness,
        motion=samples.motion,
        duplicate_of=copies[:n],
        likeness=likeness[:n],
        superfluous=superfluous(duplicates.groups, splits, fixed=len(sources) - n)[:n],
        lowest_score=options.lowest_score,
    )
    out.mkdir(parents=True, exist_ok=True)
    verdicts.write(out)
    begin(f"drawing {out / PAGE}")
    write_page(out / PAGE, verdicts, loader, title=shards.resolve().name, limit=duplicates.limit)
    return verdicts


def default_folds(samples: int) -> int:
    """Number of folds that suits a number of samples: of few, each model must be trained on a larger share."""
    return 5 if samples < FEW_SAMPLES else 3


def _loader(config: Config, shards: Location) -> DaliLoader:
    data = config.data.without_split(path=str(shards), loader="dali", labels="", max_bad_fraction=0.0)
    loader = DaliLoader(config=replace(config, data=data), batch_size=BATCH)
    if not (loader.has_video and loader.has_audio):
        raise ConfigError(f"{shards}: pairs need video and audio in every sample; prepare with streams=both")
    return loader


def _duplicates(
    loader: DaliLoader, samples: Samples, config: Config, model: CrossModalModel, options: Options
) -> tuple[Duplicates, list[str], list[str]]:
    """Duplicates among the samples and those of options.against, which follow them; names and splits of all."""
    sources, splits = _names(loader.dataset), _splits(loader.dataset)
    if options.against is not None:
        others = _loader(config, options.against)
        begin(f"reading {len(others.ids):,} samples of {options.against}")
        samples = samples.joined(read_samples(others, model, others.ids))
        sources += [f"{options.against}/{source}" for source in _names(others.dataset)]
        splits += _splits(others.dataset)
    begin("looking for near-duplicates")
    return find_duplicates(samples, fps=config.clip.fps), sources, splits


def _scores(samples: Samples, groups: np.ndarray, config: Config) -> np.ndarray:
    return correspondence(samples.video, samples.audio, groups, temperature=config.loss.temperature)


def _held_out_scores(loader: DaliLoader, groups: np.ndarray, assigned: np.ndarray, folders: list[Path]) -> np.ndarray:
    """Scores every pair by the model that has not seen it."""
    scores = np.zeros(len(assigned))
    for fold, folder in enumerate(folders):
        rows = np.flatnonzero(assigned == fold)
        begin(f"scoring the {len(rows):,} pairs of fold {fold + 1} of {len(folders)}")
        with hushed():
            samples = read_samples(loader, load_encoders(folder).model, loader.ids[rows])
        scores[rows] = _scores(samples, groups[rows], loader.config)
    return scores


def _names(dataset: Manifest) -> list[str]:
    return [dataset.source(sample) for sample in range(len(dataset))]


def _splits(dataset: Manifest) -> list[str]:
    if "split" not in dataset.label_columns:
        return [""] * len(dataset)
    names = [*dataset.label_names("split"), ""]  # code -1 is unknown
    return [names[code] for code in dataset.labels("split")]
