"""Full fine-tuning of an encoder, compared with the same recipe from scratch and on frozen features.

This is the common protocol for UCF101 and HMDB51: each official split is trained and tested separately, clips are cut
as in pre-training, and the prediction for a test video is the softmax averaged over its clips and crops. The accuracy
of the last epoch is reported, not that of the best epoch on the test part.
"""

from __future__ import annotations

import copy
import functools
import itertools
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from operator import itemgetter
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from common.finite import require_finite
from common.progress import show_progress
from common.randomness import torch_seed
from evaluation.features import test_clips
from evaluation.ranking import chance_figures, measurable, ranking_figures
from evaluation.statistics import CHANCE, over_splits
from evaluation.task import Task
from model.encoder import CrossModalModel
from pipeline.batch import Batch
from pipeline.load.clip_loader import ClipLoader
from pipeline.plan.order import global_order
from settings import ConfigError
from settings.evaluation import EvaluationConfig, FinetuneConfig
from settings.schedule import learning_rate
from training.optim import weight_decay_groups

FULL, LINEAR = "fine-tuned", "linear"
PURPOSE = "finetune"

log = logging.getLogger(__name__)


class Classifier(nn.Module):
    """A backbone with a new last layer.

    Args:
        backbone: maps clips to features [B, F].
        frozen: leave the backbone unchanged, including its BatchNorm statistics, and compute no gradient for it.
    """

    def __init__(self, *, backbone: nn.Module, features: int, classes: int, dropout: float, frozen: bool) -> None:
        super().__init__()
        self.backbone = backbone.requires_grad_(not frozen)
        self.frozen = frozen
        # The features of different encoders differ in scale by orders of magnitude, but one recipe must suit them all.
        self.head = nn.Sequential(
            nn.BatchNorm1d(features, affine=False), nn.Dropout(dropout), nn.Linear(features, classes)
        )

    def train(self, mode: bool = True) -> Classifier:
        super().train(mode)
        if self.frozen:
            self.backbone.eval()
        return self

    def forward(self, clips: torch.Tensor) -> torch.Tensor:
        """[B, ...] to logits [B, classes]."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            features = self.backbone(clips)
        return self.head(features)


def run_finetune(
    models: Mapping[str, CrossModalModel],
    loader: ClipLoader,
    tasks: Sequence[Task],
    settings: EvaluationConfig,
    *,
    modality: str,
    kinds: Sequence[str] = (FULL, LINEAR),
    top5: bool = False,
    ranking: bool = False,
) -> list[dict[str, Any]]:
    """Mean and standard deviation over the splits of the accuracy on samples and on single clips.

    Each encoder is fine-tuned (which trains the random one from scratch) and, with the same recipe, a linear layer is
    trained on its frozen features.

    Args:
        tasks: the splits of one label.
        kinds: FULL, LINEAR or both.
        top5: also report how often the class is among the five most probable ones.
        ranking: also report mAP, AUC and d-prime, of the only split.

    Returns:
        One row per encoder and training (columns `encoder` and `training`), and one for chance, with the columns of
        `over_splits` for `accuracy` and, except for chance, `clip_accuracy`.

    Raises:
        ConfigError: a training part is smaller than a batch.
        NotFiniteError: a loss or a prediction is not finite; the message names the sample.
    """
    models = {name: model for name, model in models.items() if modality in model.query}
    results: dict[tuple[str, str], list[dict[str, float]]] = {}
    ranked: dict[tuple[str, str], dict[str, Any]] = {}
    tests = int(np.logical_or.reduce([task.test for task in tasks]).sum())
    _require_batches(tasks, loader.batch_size)
    for number, task in enumerate(tasks, 1):
        classifiers = {}
        for name, kind in itertools.product(models, kinds):
            log.info("split %d of %d: %s, %s, %s", number, len(tasks), modality, name, kind)
            backbone = copy.deepcopy(models[name].query[modality].backbone)
            train = np.flatnonzero(task.train)
            classifiers[name, kind] = fit(
                backbone, loader, train, task.codes, settings, modality=modality, frozen=kind == LINEAR
            )
        test = np.flatnonzero(task.test)
        for key, (probabilities, clips_right) in classify(
            classifiers, loader, test, task.codes, settings, modality=modality
        ).items():
            shares = _shares(probabilities, task.codes[test], clips_right, top5=top5)
            results.setdefault(key, []).append(shares)
            if ranking:
                kept, targets = measured_targets(task)
                ranked[key] = ranking_figures(probabilities[:, kept], targets, seed=settings.seed)
    rows = [
        {"encoder": name, "training": kind} | over_splits(each, tests=tests) | ranked.get((name, kind), {})
        for (name, kind), each in results.items()
    ]
    return [*rows, _chance_row(tasks, tests=tests, top5=top5, ranking=ranking)]


def _require_batches(tasks: Sequence[Task], batch_size: int) -> None:
    """Raises ConfigError unless every training part fills a batch."""
    fewest = min(int(task.train.sum()) for task in tasks)
    if fewest < batch_size:
        raise ConfigError(f"batch_size={batch_size} is larger than the training part of {fewest} samples; lower it")


def _shares(probabilities: np.ndarray, codes: np.ndarray, clips_right: np.ndarray, *, top5: bool) -> dict[str, float]:
    """The accuracies of one split: probabilities [n, classes], codes int [n], and whether each single clip is right."""
    shares = {"accuracy": top_k(probabilities, codes, 1), "clip_accuracy": float(clips_right.mean())}
    return shares | ({"top5_accuracy": top_k(probabilities, codes, 5)} if top5 else {})


def _chance_row(tasks: Sequence[Task], *, tests: int, top5: bool, ranking: bool) -> dict[str, Any]:
    """The row of always predicting the most frequent classes of the training part."""
    ks = {"accuracy": 1} | ({"top5_accuracy": 5} if top5 else {})
    accuracies = [{name: float(task.majority_correct(k).mean()) for name, k in ks.items()} for task in tasks]
    row = {"encoder": CHANCE, "training": "majority class"} | over_splits(accuracies, tests=tests)
    if ranking:
        row |= chance_figures(measured_targets(tasks[0])[1])
    return row


def measured_targets(task: Task) -> tuple[np.ndarray, np.ndarray]:
    """The classes that are measurable, bool [classes], and which of them each test sample has, bool [tests, kept]."""
    classes = np.arange(int(task.codes.max()) + 1)
    train, test = (task.codes[part, None] == classes for part in (task.train, task.test))
    kept = measurable(train, test)
    return kept, test[:, kept]


def fit(
    backbone: nn.Module,
    loader: ClipLoader,
    ids: np.ndarray,
    codes: np.ndarray,
    settings: EvaluationConfig,
    *,
    modality: str,
    frozen: bool,
) -> Classifier:
    """Trains `backbone`, in place, with a new last layer on the loader's device.

    Args:
        ids: int64, the training samples, at least a batch.
        codes: int [n], the classes by sample id.

    Returns:
        The classifier after the last epoch, in eval mode.

    Raises:
        NotFiniteError: a loss is not finite; the message names the sample.
    """
    recipe, device = settings.finetune, loader.device
    (probe,) = loader.uniform_clips(ids[:1], clips=1)
    with torch.no_grad():
        features = backbone(getattr(probe, modality)).shape[1]
    steps = len(ids) // loader.batch_size
    # fork_rng preserves the caller's random state; the new layer and dropout depend only on the seed.
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(torch_seed(settings.seed, 0, PURPOSE))
        classifier = Classifier(
            backbone=backbone, features=features, classes=int(codes.max()) + 1, dropout=recipe.dropout, frozen=frozen
        ).to(device)
        optimizer, schedule = _optimizer(classifier, recipe, steps_per_epoch=steps)
        classifier.train()
        clips = _training_clips(loader, ids, settings, modality=modality)
        progress = show_progress(clips, total=recipe.epochs * steps, unit="steps")
        for epoch, batches in itertools.groupby(progress, key=itemgetter(0)):
            total = torch.zeros((), device=device)
            seen: list[tuple[torch.Tensor, torch.Tensor]] = []
            for _, batch in batches:
                with _autocast(device):
                    logits = classifier(getattr(batch, modality))
                loss = F.cross_entropy(logits.float(), torch.from_numpy(codes[batch.ids.numpy()]).long().to(device))
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
                schedule.step()
                total += loss.detach()
                seen.append((batch.ids, torch.isfinite(logits).all(dim=1)))
            mean_loss = total.item() / steps
            if not math.isfinite(mean_loss):
                _refuse_loss(seen, loader, epoch + 1)
            log.info("epoch %d of %d: loss %.3f", epoch + 1, recipe.epochs, mean_loss)
    return classifier.eval()


def _training_clips(
    loader: ClipLoader, ids: np.ndarray, settings: EvaluationConfig, *, modality: str
) -> Iterator[tuple[int, Batch]]:
    """Yields (epoch, batch) of complete batches, in another order in each epoch."""
    steps = len(ids) // loader.batch_size
    for epoch in range(settings.finetune.epochs):
        order = global_order(len(ids), seed=settings.seed, epoch=epoch, purpose=PURPOSE)
        kept = ids[order[: steps * loader.batch_size]]
        for batch in loader.clips(kept, epoch=epoch, purpose=PURPOSE, streams=(modality,)):
            yield epoch, batch


@torch.no_grad()
def classify(
    classifiers: Mapping[Any, nn.Module],
    loader: ClipLoader,
    ids: np.ndarray,
    codes: np.ndarray,
    settings: EvaluationConfig,
    *,
    modality: str,
) -> dict[Any, tuple[np.ndarray, np.ndarray]]:
    """Applies several classifiers to the same test clips, which are decoded once.

    Args:
        ids: int64 [n], distinct sample ids.
        codes: int, the classes by sample id.

    Returns:
        For each classifier the softmax averaged over the clips and crops of ids[i], float64 [n, classes], and whether
        the prediction for each single clip is right, bool [n * clips * crops].

    Raises:
        NotFiniteError: a prediction is not finite; the message names the sample.
    """
    order = np.argsort(ids)
    sums: dict[Any, np.ndarray] = {}
    right: dict[Any, list[np.ndarray]] = {key: [] for key in classifiers}
    for batch in test_clips(loader, ids, settings):
        sample = batch.ids.numpy()
        rows = order[np.searchsorted(ids[order], sample)]
        for key, classifier in classifiers.items():
            with _autocast(loader.device):
                logits = classifier(getattr(batch, modality))
            probabilities = logits.double().softmax(dim=1).cpu().numpy()
            sums.setdefault(key, np.zeros((len(ids), probabilities.shape[1])))
            np.add.at(sums[key], rows, probabilities)
            right[key].append(probabilities.argmax(axis=1) == codes[sample])
    for key, total in sums.items():
        what = f"the predictions of {key if isinstance(key, str) else ', '.join(map(str, key))}"
        require_finite(total, what, name=lambda row: loader.dataset.source(int(ids[row])))
    clips = settings.clips * settings.crops
    return {key: (sums[key] / clips, np.concatenate(right[key])) for key in classifiers}


def top_k(probabilities: np.ndarray, codes: np.ndarray, k: int) -> float:
    """Share of the rows of `probabilities`, [n, classes], whose class, int [n], is among the k most probable.

    Raises:
        NotFiniteError: a probability is not finite.
    """
    require_finite(probabilities, "the probabilities")
    best = np.argsort(-probabilities, axis=1, kind="stable")[:, :k]
    return float(np.mean((best == codes[:, None]).any(axis=1)))


def _refuse_loss(seen: Sequence[tuple[torch.Tensor, torch.Tensor]], loader: ClipLoader, epoch: int) -> None:
    """Raises NotFiniteError for the first sample of an epoch whose logits are not finite, or else for the loss.

    Args:
        seen: for each batch the sample ids, int64 [B], and whether their logits are finite, bool [B].
    """
    ids = torch.cat([batch for batch, _ in seen])
    logits = torch.where(torch.cat([finite for _, finite in seen]).cpu(), 0.0, math.nan)
    advice = "lower finetune.lr or finetune.head_lr, or evaluate an earlier checkpoint if the run has diverged"
    what = f"epoch {epoch} of fine-tuning: the logits"
    require_finite(logits.numpy(), what, name=lambda row: loader.dataset.source(int(ids[row])), advice=advice)
    require_finite(math.nan, f"epoch {epoch} of fine-tuning: the losses", advice=advice)


def _optimizer(
    classifier: Classifier, recipe: FinetuneConfig, *, steps_per_epoch: int
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LambdaLR]:
    groups = []
    for module, rate in ((classifier.backbone, recipe.lr), (classifier.head, recipe.head_lr)):
        groups += weight_decay_groups(module.parameters(), weight_decay=recipe.weight_decay, lr=rate)
    total, warmup = recipe.epochs * steps_per_epoch, round(recipe.warmup_epochs * steps_per_epoch)
    optimizer = torch.optim.AdamW(groups)
    schedule = functools.partial(learning_rate, peak=1.0, warmup=warmup, total=total)
    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, schedule)


def _autocast(device: torch.device) -> torch.autocast:
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=device.type == "cuda")
