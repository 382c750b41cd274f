"""The evaluation protocols by name: each is a function from `EvaluationInputs` to tables of results."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from evaluation.class_retrieval import RECALL_AT as CLASS_RECALL_AT
from evaluation.class_retrieval import run_class_retrieval
from evaluation.esc50 import esc50_tasks, run_esc50
from evaluation.features import MODALITIES, Features, QueryEncoders, extract, require_finite_features, test_clips
from evaluation.finetune import FULL, LINEAR, measured_targets, run_finetune
from evaluation.lists.classes import read_classes, restrict
from evaluation.lists.official_splits import official_tasks, read_official_splits, read_rejected
from evaluation.notes import few_samples, omitted_recalls
from evaluation.pair_retrieval import RECALL_AT as PAIR_RECALL_AT
from evaluation.pair_retrieval import run_pair_retrieval
from evaluation.probes.knn import run_knn
from evaluation.probes.layers import LayeredModel, run_layers
from evaluation.probes.linear import run_linear
from evaluation.probes.multilabel import read_targets, run_multilabel
from evaluation.ranking import left_out, measurable
from evaluation.statistics import CHANCE
from evaluation.task import SPLIT_COLUMN, Task, choose_labels, make_split, make_splits, make_task, retrieval_split
from model.encoder import CrossModalModel
from pipeline.load.clip_loader import ClipLoader
from settings import ConfigError
from settings.evaluation import EvaluationConfig

VGGSOUND_CLASSES = 309


@dataclass(frozen=True, kw_only=True)
class EvaluationInputs:
    """The models to evaluate, the data and the settings."""

    models: Mapping[str, CrossModalModel]
    """Name -> model in eval mode on the loader's device; the checkpoint's first, then the random one."""
    loader: ClipLoader
    settings: EvaluationConfig
    label: str | None
    """Value of the option --label."""


@dataclass(frozen=True, kw_only=True)
class Table:
    """The result of a protocol for one label."""

    name: str
    """Name of the JSON file after `evaluation-` (see `result_path`)."""
    caption: str
    rows: list[dict[str, Any]]
    coverage: Sequence[dict[str, Any]] = ()
    """How much of each official list the data set holds (see `official_tasks`); empty without official lists."""
    notes: Sequence[str] = ()
    """Sentences about what the figures can show, and what they cannot."""


def _probe(
    run: Callable[..., list[dict[str, Any]]],
    protocol: str,
    inputs: EvaluationInputs,
    *,
    models: Mapping[str, QueryEncoders] | None = None,
) -> Iterator[Table]:
    """Runs a protocol over frozen features of the samples of the first split."""
    tasks, coverage, missing = _tasks(inputs, first_only=True)
    features, ids = _features(inputs, _used(tasks), models=models)
    for task in tasks:
        selected = task.rows(ids)
        rows = run(features, selected, inputs.settings)
        omitted = omitted_recalls(CLASS_RECALL_AT, int(selected.train.sum())) if protocol == "retrieval" else []
        yield Table(
            name=f"{protocol}-{task.label}",
            caption=f"{_counts([selected])}; {_clips(inputs.settings)}",
            rows=rows,
            coverage=coverage,
            notes=[*missing, *omitted, *few_samples(rows, tests=int(selected.test.sum()))],
        )


def _retrieval(inputs: EvaluationInputs) -> Iterator[Table]:
    """Retrieval between video and audio; with --label or splits, retrieval by class within each modality."""
    if inputs.label is not None or inputs.settings.splits:
        yield from _probe(run_class_retrieval, "retrieval", inputs)
        return
    data, settings = inputs.loader.dataset, inputs.settings
    split = retrieval_split(data, settings.split, seed=settings.seed)
    features, ids = _features(inputs, split.test)
    selected = split.rows(ids)
    rows = run_pair_retrieval(features, selected, settings)
    notes = [*omitted_recalls(PAIR_RECALL_AT, len(ids)), *few_samples(rows, tests=len(ids))]
    if notes and SPLIT_COLUMN not in data.label_columns and settings.split == "auto":
        notes.append(f"The test samples are a random part of the data set; split=all tests all {len(data)} samples.")
    yield Table(
        name="retrieval",
        caption=f"{len(ids)} test samples; split: {split.origin}; {_clips(settings)}",
        rows=rows,
        notes=notes,
    )


def _finetune(inputs: EvaluationInputs) -> Iterator[Table]:
    """Fine-tunes on every split, with video or, if the data have none, with audio."""
    tasks, coverage, notes = _tasks(inputs)
    if len({task.label for task in tasks}) > 1:
        raise ConfigError("finetune trains for one label at a time; name one with --label")
    yield _finetuned(inputs, tasks, name=f"finetune-{tasks[0].label}", coverage=coverage, notes=notes)


def _kinetics_linear(inputs: EvaluationInputs) -> Iterator[Table]:
    """Trains a linear classifier on frozen features of augmented clips of the first split."""
    tasks, coverage, notes = _tasks(inputs, first_only=True)
    for task in tasks:
        name = f"kinetics_linear-{task.label}"
        yield _finetuned(inputs, [task], name=name, coverage=coverage, notes=notes, kinds=(LINEAR,), top5=True)


def _vggsound(name: str, kind: str, inputs: EvaluationInputs) -> Iterator[Table]:
    """Trains one classifier per modality and reports mAP, AUC and d-prime over the classes, as the data set's paper."""
    tasks, coverage, notes = _tasks(inputs, first_only=True)
    if len(tasks) > 1:
        raise ConfigError(f"{name} trains for one label at a time; name one with --label")
    classes = len(np.unique(tasks[0].codes[_used(tasks)]))
    if classes != VGGSOUND_CLASSES:
        notes.append(f"The data hold {classes} classes, VGGSound {VGGSOUND_CLASSES}: do not compare with its figures.")
    notes += left_out(measured_targets(tasks[0])[0], label=tasks[0].label)
    modalities = [m for m in MODALITIES if getattr(inputs.loader, f"has_{m}")]
    tables = [
        _finetuned(inputs, tasks, name=name, modality=m, kinds=(kind,), top5=True, ranking=True) for m in modalities
    ]
    rows = [
        {"encoder": row["encoder"], "modality": modality} | row
        for modality, table in zip(modalities, tables, strict=True)
        for row in table.rows[:-1]
    ]
    rows.append({"encoder": CHANCE, "modality": "majority class"} | tables[0].rows[-1])
    caption = tables[0].caption.replace(f"; {modalities[0]}", "")
    few = few_samples(rows, tests=_tests(tasks))
    yield Table(name=name, caption=caption, rows=rows, coverage=coverage, notes=[*notes, *few])


def _multilabel(inputs: EvaluationInputs) -> Iterator[Table]:
    """Fits one probe per class to frozen features of clips that may have several labels."""
    data, settings = inputs.loader.dataset, inputs.settings
    if settings.splits or settings.classes:
        raise ConfigError("multilabel takes --label, and neither splits nor classes")
    split = make_split(data, seed=settings.seed)
    tasks = [make_task(data, label, split) for label in choose_labels(data, inputs.label)]
    targets = [read_targets(data, task.label, separator=settings.separator)[0] for task in tasks]
    features, ids = _features(inputs, _used(tasks))
    for task, of_label in zip(tasks, targets, strict=True):
        selected, chosen = task.rows(ids), of_label[ids]
        rows = run_multilabel(features, selected, chosen, settings)
        kept = measurable(chosen[selected.train], chosen[selected.test])
        labels = f"{of_label[ids].sum() / len(ids):.1f} labels per sample"
        yield Table(
            name=f"multilabel-{task.label}",
            caption=f"{_counts([selected])}; {_clips(settings)}; {labels}",
            rows=rows,
            notes=[*left_out(kept, label=task.label), *few_samples(rows, tests=int(selected.test.sum()))],
        )


def _layers(inputs: EvaluationInputs) -> Iterator[Table]:
    """Fits a linear probe to the features of every layer of every encoder."""
    models = {name: LayeredModel(model) for name, model in inputs.models.items()}
    yield from _probe(partial(run_layers, models), "layers", inputs, models=models)


def _esc50(inputs: EvaluationInputs) -> Iterator[Table]:
    tasks = esc50_tasks(inputs.loader.dataset)
    rows = run_esc50(inputs.models, inputs.loader, tasks, inputs.settings)
    caption = f"{_counts(tasks)}; {_clips(inputs.settings)}; linear SVM"
    yield Table(name="esc50", caption=caption, rows=rows, notes=few_samples(rows, tests=_tests(tasks)))


def _esc50_finetune(inputs: EvaluationInputs) -> Iterator[Table]:
    yield _finetuned(inputs, esc50_tasks(inputs.loader.dataset), name="esc50_finetune", modality="audio")


def _finetuned(
    inputs: EvaluationInputs,
    tasks: Sequence[Task],
    *,
    name: str,
    coverage: Sequence[dict[str, Any]] = (),
    notes: Sequence[str] = (),
    modality: str | None = None,
    **options: Any,
) -> Table:
    """Fine-tunes and returns the table of results.

    Args:
        modality: None selects video or, if the data have none, audio.
        options: passed to `run_finetune`.
    """
    loader, settings = inputs.loader, inputs.settings
    modality = modality or ("video" if loader.has_video else "audio")
    if not getattr(loader, f"has_{modality}"):
        raise ConfigError(f"this protocol needs {modality} in every sample; prepare the data with streams={modality}")
    rows = run_finetune(inputs.models, loader, tasks, settings, modality=modality, **options)
    epochs = settings.finetune.epochs
    recipe = f"{epochs} epoch{'s' * (epochs != 1)}, the last one; {modality}"
    caption = f"{_counts(tasks)}; {_clips(settings)}; {recipe}"
    notes = [*notes, *few_samples(rows, tests=_tests(tasks))]
    return Table(name=name, caption=caption, rows=rows, coverage=coverage, notes=notes)


def _tasks(inputs: EvaluationInputs, *, first_only: bool = False) -> tuple[list[Task], list[dict[str, Any]], list[str]]:
    """The tasks of each label and split, or those of the official lists with their coverage, and sentences on them."""
    data, settings = inputs.loader.dataset, inputs.settings
    if settings.splits:
        if inputs.label is not None:
            raise ConfigError("give --label or splits, not both: the official lists name the classes too")
        if settings.classes:
            raise ConfigError("give classes or splits, not both: classes restricts a label column")
        rejected = read_rejected(inputs.loader.config.data.path)
        tasks, coverage = official_tasks(read_official_splits(settings.splits), data, rejected=rejected)
        return tasks[:1] if first_only else tasks, coverage, []
    splits = [make_split(data, seed=settings.seed)] if first_only else make_splits(data, seed=settings.seed)
    tasks = [make_task(data, name, split) for name in choose_labels(data, inputs.label) for split in splits]
    if not settings.classes:
        return tasks, [], []
    restricted = [restrict(task, data, read_classes(settings.classes)) for task in tasks]
    return [task for task, _ in restricted], [], restricted[0][1]


def _features(
    inputs: EvaluationInputs, used: np.ndarray, *, models: Mapping[str, QueryEncoders] | None = None
) -> tuple[dict[str, Features], np.ndarray]:
    """Features of the samples in the mask `used`, bool [n], and their ids.

    Args:
        models: encoders in place of those in `inputs`.

    Raises:
        NotFiniteError: a feature is not finite; the message names the sample.
    """
    ids, settings = np.flatnonzero(used), inputs.settings
    slots = settings.clips if settings.pooling == "concat" else 1
    features = extract(models or inputs.models, test_clips(inputs.loader, ids, settings), ids, slots=slots)
    require_finite_features(features, name=lambda row: inputs.loader.dataset.source(int(ids[row])))
    return features, ids


def _used(tasks: Sequence[Task]) -> np.ndarray:
    """The samples that any task fits or tests, bool [n]."""
    return np.logical_or.reduce([task.train | task.test for task in tasks])


def _tests(tasks: Sequence[Task]) -> int:
    """The number of distinct test samples."""
    return int(np.logical_or.reduce([task.test for task in tasks]).sum())


def _counts(tasks: Sequence[Task]) -> str:
    train, test = (" + ".join(str(getattr(task, part).sum()) for task in tasks) for part in ("train", "test"))
    splits = tasks[0].split.origin if len(tasks) == 1 else f"{tasks[0].split.origin} to {tasks[-1].split.origin}"
    return f"{train} train and {test} test samples; split: {splits}"


def _clips(settings: EvaluationConfig) -> str:
    crops = f" x {settings.crops} crops" * (settings.crops > 1)
    return f"{settings.clips} clips{crops} per sample ({settings.pooling})"


PROTOCOLS: dict[str, Callable[[EvaluationInputs], Iterator[Table]]] = {
    "linear": partial(_probe, run_linear, "linear"),
    "knn": partial(_probe, run_knn, "knn"),
    "retrieval": _retrieval,
    "finetune": _finetune,
    "kinetics_linear": _kinetics_linear,
    "layers": _layers,
    "multilabel": _multilabel,
    "vggsound": partial(_vggsound, "vggsound", LINEAR),
    "vggsound_finetune": partial(_vggsound, "vggsound_finetune", FULL),
    "esc50": _esc50,
    "esc50_finetune": _esc50_finetune,
}
"""Value of the option --protocol -> the function that runs the protocol."""

TRAINING = ("finetune", "kinetics_linear", "esc50_finetune", "vggsound", "vggsound_finetune")
"""The protocols that train by gradient descent: on a CPU the loader's threads leave the cores to them."""
