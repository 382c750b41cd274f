"""The protocols by name, and what each gets and gives."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from evaluation.class_retrieval import run_nearest
from evaluation.esc50 import esc50_tasks, run_esc50
from evaluation.features import Features, extract
from evaluation.finetune import LINEAR, run_finetune
from evaluation.knn import run_knn
from evaluation.linear import run_linear
from evaluation.official_splits import official_tasks, read_official_splits, read_rejected
from evaluation.pair_retrieval import run_retrieval
from evaluation.task import Task, choose_labels, make_split, make_splits, make_task
from model.encoder import CrossModalModel
from pipeline.load.clip_loader import ClipLoader
from settings import ConfigError
from settings.evaluation import EvaluationConfig


@dataclass(frozen=True, kw_only=True)
class EvaluationInputs:
    """What is evaluated, on what, and how."""

    models: Mapping[str, CrossModalModel]
    """Name -> model in eval mode on the loader's device; the checkpoint's first, then the random one."""
    loader: ClipLoader
    settings: EvaluationConfig
    label: str | None
    """--label."""


@dataclass(frozen=True, kw_only=True)
class Table:
    """A result."""

    name: str
    """Of the JSON file."""
    caption: str
    rows: list[dict[str, Any]]
    coverage: Sequence[dict[str, Any]] = ()
    """How much of the official lists is there (`official_tasks`); nothing where none were given."""


def _probe(run: Callable[..., list[dict[str, Any]]], protocol: str, subject: EvaluationInputs) -> Iterator[Table]:
    """Protocols over frozen features of the samples of one split."""
    tasks, coverage = _tasks(subject, first_only=True)
    features, ids = _features(subject, np.logical_or.reduce([task.train | task.test for task in tasks]))
    for task in tasks:
        given = task.rows(ids)
        yield Table(
            name=f"{protocol}-{task.label}",
            caption=f"{_counts([given])}; {_clips(subject.settings)}",
            rows=run(features, given, subject.settings),
            coverage=coverage,
        )


def _retrieval(subject: EvaluationInputs) -> Iterator[Table]:
    """Video with audio; with classes given, the nearest training samples of the same modality."""
    if subject.label is not None or subject.settings.splits:
        yield from _probe(run_nearest, "retrieval", subject)
        return
    split = make_split(subject.loader.dataset, seed=subject.settings.seed)
    features, ids = _features(subject, split.test)
    given = split.rows(ids)
    yield Table(
        name="retrieval",
        caption=f"{given.test.sum()} test samples; split: {split.origin}; {_clips(subject.settings)}",
        rows=run_retrieval(features, given, subject.settings),
    )


def _finetune(subject: EvaluationInputs) -> Iterator[Table]:
    """All splits there are, by video; by audio where the data have no picture."""
    tasks, coverage = _tasks(subject)
    if len({task.label for task in tasks}) > 1:
        raise ConfigError("finetune trains for one label at a time; name one with --label")
    yield _finetuned(subject, tasks, name=f"finetune-{tasks[0].label}", coverage=coverage)


def _kinetics_linear(subject: EvaluationInputs) -> Iterator[Table]:
    """A linear classifier of the first split on frozen features of augmented clips."""
    tasks, coverage = _tasks(subject, first_only=True)
    for task in tasks:
        yield _finetuned(
            subject, [task], name=f"kinetics_linear-{task.label}", coverage=coverage, kinds=(LINEAR,), top5=True
        )


def _esc50(subject: EvaluationInputs) -> Iterator[Table]:
    tasks = esc50_tasks(subject.loader.dataset)
    rows = run_esc50(subject.models, subject.loader, tasks, subject.settings)
    yield Table(name="esc50", caption=f"{_counts(tasks)}; {_clips(subject.settings)}; linear SVM", rows=rows)


def _esc50_finetune(subject: EvaluationInputs) -> Iterator[Table]:
    yield _finetuned(subject, esc50_tasks(subject.loader.dataset), name="esc50_finetune", modality="audio")


def _finetuned(
    subject: EvaluationInputs,
    tasks: Sequence[Task],
    *,
    name: str,
    coverage: Sequence[dict[str, Any]] = (),
    modality: str | None = None,
    **options: Any,
) -> Table:
    """`modality` None: video; audio where the data have no picture. `options` go to run_finetune."""
    loader, settings = subject.loader, subject.settings
    modality = modality or ("video" if loader.has_video else "audio")
    if not getattr(loader, f"has_{modality}"):
        raise ConfigError(f"this protocol needs {modality} in every sample; prepare the data with streams={modality}")
    rows = run_finetune(subject.models, loader, tasks, settings, modality=modality, **options)
    recipe = f"{settings.finetune.epochs} epochs, the last one; {modality}"
    caption = f"{_counts(tasks)}; {_clips(settings)}; {recipe}"
    return Table(name=name, caption=caption, rows=rows, coverage=coverage)


def _tasks(subject: EvaluationInputs, *, first_only: bool = False) -> tuple[list[Task], list[dict[str, Any]]]:
    """The tasks of --label and the splits (those of the official lists, if given), and the lists' coverage."""
    data, settings = subject.loader.dataset, subject.settings
    if settings.splits:
        if subject.label is not None:
            raise ConfigError("give --label or splits, not both: the official lists name the classes too")
        rejected = read_rejected(subject.loader.config.data.path)
        tasks, coverage = official_tasks(read_official_splits(settings.splits), data, rejected=rejected)
        return tasks[:1] if first_only else tasks, coverage
    splits = [make_split(data, seed=settings.seed)] if first_only else make_splits(data, seed=settings.seed)
    return [make_task(data, name, split) for name in choose_labels(data, subject.label) for split in splits], []


def _features(subject: EvaluationInputs, used: np.ndarray) -> tuple[dict[str, Features], np.ndarray]:
    """Features of the samples of the mask `used`, and their ids."""
    ids, settings = np.flatnonzero(used), subject.settings
    slots = settings.clips if settings.pooling == "concat" else 1
    clips = subject.loader.uniform_clips(ids, clips=settings.clips, crops=settings.crops)
    return extract(subject.models, clips, ids, slots=slots), ids


def _counts(tasks: Sequence[Task]) -> str:
    train, test = (" + ".join(str(getattr(task, part).sum()) for task in tasks) for part in ("train", "test"))
    splits = tasks[0].split.origin if len(tasks) == 1 else f"{tasks[0].split.origin} to {tasks[-1].split.origin}"
    return f"{train} train and {test} test samples; split: {splits}"


def _clips(settings: EvaluationConfig) -> str:
    crops = f" x {settings.crops} crops" * (settings.crops > 1)
    return f"{settings.clips} clips{crops} a sample ({settings.pooling})"


PROTOCOLS: dict[str, Callable[[EvaluationInputs], Iterator[Table]]] = {
    "linear": partial(_probe, run_linear, "linear"),
    "knn": partial(_probe, run_knn, "knn"),
    "retrieval": _retrieval,
    "finetune": _finetune,
    "kinetics_linear": _kinetics_linear,
    "esc50": _esc50,
    "esc50_finetune": _esc50_finetune,
}
"""--protocol -> what it is evaluated by."""
