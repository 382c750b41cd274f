"""The ESC-50 protocol (Piczak 2015): a linear SVM on frozen audio features over the five official folds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from sklearn.model_selection import GridSearchCV, LeaveOneGroupOut
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from threadpoolctl import threadpool_limits
from torch import nn

from common.finite import require_finite
from evaluation.features import QueryEncoders, each_encoder, extract, require_finite_features, test_clips
from evaluation.statistics import CHANCE, over_splits
from evaluation.task import LabelledData, Split, Task
from model.encoder import CrossModalModel, EncoderOutput
from pipeline.load.clip_loader import ClipLoader
from settings import ConfigError
from settings.evaluation import EvaluationConfig
from settings.load import format_names

CS = (1e-3, 1e-2, 1e-1, 1.0, 10.0)
BASELINE = "log-mel mean and standard deviation"


class LogMelMoments(nn.Module):
    """Features that are not learned: the first and second moment of each mel band over a window.

    Moments, because `extract` averages over a sample's clips, and the average of deviations is not the deviation.
    """

    def forward(self, audio: torch.Tensor) -> EncoderOutput:
        """[B, 1, n_mels, F] to features [B, 2 n_mels]."""
        bands = audio.squeeze(1)
        moments = torch.cat([bands.mean(dim=2), bands.square().mean(dim=2)], dim=1)
        return EncoderOutput(moments, moments, moments)


class Baseline(nn.Module):
    """LogMelMoments as the audio encoder of a model."""

    def __init__(self) -> None:
        super().__init__()
        self.query = nn.ModuleDict({"audio": LogMelMoments()})


def esc50_tasks(data: LabelledData) -> list[Task]:
    """One task per fold: that fold is the test part, the others are the training part.

    Raises:
        ConfigError: the data set lacks the label column fold or category, or has only one fold.
    """
    lacking = {"fold", "category"} - set(data.label_columns)
    if lacking:
        raise ConfigError(
            "the ESC-50 protocols need the label columns fold and category; the data set has no "
            f"{' and no '.join(sorted(lacking))}: prepare it with --labels ESC-50/meta/esc50.csv"
        )
    folds, names = np.asarray(data.labels("fold")), data.label_names("fold")
    codes = np.asarray(data.labels("category"))
    if len(names) < 2:
        raise ConfigError(
            f"the ESC-50 protocols need at least two folds; the column fold holds only {format_names(names)}"
        )
    known = folds >= 0
    return [
        Task(
            label="category",
            codes=codes,
            split=Split(train=known & (folds != fold), test=folds == fold, origin=f"fold {name}"),
        )
        for fold, name in enumerate(names)
    ]


def run_esc50(
    models: Mapping[str, CrossModalModel], loader: ClipLoader, tasks: Sequence[Task], settings: EvaluationConfig
) -> list[dict[str, Any]]:
    """Accuracy on each fold and its mean, for every audio encoder, for log-mel statistics, and for the majority class.

    The SVM's C is the value with the best mean accuracy when each training fold is held out in turn. The test fold has
    no influence on it, and clips cut from one recording, which share a fold, are never in both the fitted and the
    held-out part.

    Raises:
        ConfigError: the data have no audio.
        NotFiniteError: a feature is not finite; the message names the sample.
    """
    if not loader.has_audio:
        raise ConfigError("the ESC-50 protocols need audio in every sample; prepare the data with streams=audio")
    ids = np.flatnonzero(np.logical_or.reduce([task.test for task in tasks]))
    audio_models: dict[str, QueryEncoders] = {**_audio_only(models), BASELINE: Baseline()}
    features = extract(audio_models, test_clips(loader, ids, replace(settings, crops=1)), ids)
    require_finite_features(features, name=lambda row: loader.dataset.source(int(ids[row])))
    fold_of = np.argmax([task.test[ids] for task in tasks], axis=0)
    rows = []
    for name, _, pooled in each_encoder(features):
        x = _mean_and_deviation(pooled) if name == BASELINE else pooled
        accuracies, chosen_cs = [], []
        for task in (task.rows(ids) for task in tasks):
            svm, c = fit_svm(x[task.train], task.codes[task.train], groups=fold_of[task.train])
            accuracies.append({"accuracy": float(np.mean(svm.predict(x[task.test]) == task.codes[task.test]))})
            chosen_cs.append(f"{c:g}")
        rows.append({"encoder": name} | over_splits(accuracies, tests=len(ids)) | {"Cs": " ".join(chosen_cs)})
    majority = [{"accuracy": float(task.majority_correct().mean())} for task in tasks]
    return [*rows, {"encoder": f"{CHANCE} (majority class)"} | over_splits(majority, tests=len(ids))]


def fit_svm(x: np.ndarray, y: np.ndarray, *, groups: np.ndarray) -> tuple[Pipeline, float]:
    """Fits a linear SVM to standardised [n, F] features; C is chosen by leaving each group out (ties: the smallest).

    The SVM is one-vs-one: with 40 clips per class, this takes a twentieth of the time of one-vs-rest.

    Raises:
        NotFiniteError: a feature is not finite.
    """
    require_finite(x, "the features")
    pipeline = make_pipeline(StandardScaler(), SVC(kernel="linear", cache_size=500))
    # The matrix products are so small that BLAS threads would mostly wait for each other.
    with threadpool_limits(1):
        search = GridSearchCV(pipeline, {"svc__C": list(CS)}, cv=LeaveOneGroupOut()).fit(x, y, groups=groups)
    return search.best_estimator_, float(search.best_params_["svc__C"])


def _audio_only(models: Mapping[str, CrossModalModel]) -> dict[str, CrossModalModel]:
    return {name: model for name, model in models.items() if "audio" in model.query}


def _mean_and_deviation(moments: np.ndarray) -> np.ndarray:
    mean, square = np.split(moments.astype(np.float64), 2, axis=1)
    return np.concatenate([mean, np.sqrt(np.maximum(square - mean**2, 0))], axis=1)
