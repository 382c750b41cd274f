"""The probe for clips with several labels each, as in AudioSet: one logistic regression per class, scored by mAP."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV, KFold
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from common.finite import require_finite
from evaluation.features import Features, each_encoder, require_finite_features
from evaluation.ranking import Ranking, chance_figures, measurable, ranking_figures
from evaluation.statistics import CHANCE
from evaluation.task import LabelledData, Task
from settings import ConfigError
from settings.evaluation import EvaluationConfig

CS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)


def read_targets(data: LabelledData, label: str, *, separator: str) -> tuple[np.ndarray, list[str]]:
    """The classes of each sample, bool [n, classes] (none where the label is unknown), and their sorted names.

    Args:
        label: a label column; a value may name several classes.
        separator: the text between two classes.

    Raises:
        ConfigError: no value of the column holds the separator.
    """
    texts = data.label_names(label)
    named = [{part.strip() for part in text.split(separator)} - {""} for text in texts]
    if all(len(parts) < 2 for parts in named):
        raise ConfigError(
            f"no value of the label column {label} holds the separator {separator!r}, so no clip has several labels: "
            "set separator, or use --protocol linear"
        )
    classes = sorted(set().union(*named))
    place = {name: column for column, name in enumerate(classes)}
    # One more row, of no class, for the code -1 of an unknown label.
    by_code = np.zeros((len(texts) + 1, len(classes)), dtype=bool)
    for code, parts in enumerate(named):
        by_code[code, [place[part] for part in parts]] = True
    return by_code[np.asarray(data.labels(label))], classes


def run_multilabel(
    features: Mapping[str, Features], task: Task, targets: np.ndarray, config: EvaluationConfig
) -> list[dict[str, Any]]:
    """mAP, AUC and d-prime of each modality and encoder, over the classes that are measurable, and of a random order.

    Args:
        task: its codes say only whether a sample is labelled.
        targets: the classes of each sample, bool [n, classes].

    Raises:
        ConfigError: fewer than two classes are measurable.
        NotFiniteError: a feature is not finite; the message names the row.
    """
    kept = measurable(targets[task.train], targets[task.test])
    if kept.sum() < 2:
        raise ConfigError(
            f"{kept.sum()} of the {len(kept)} classes of --label {task.label} have training samples, test samples, and "
            "test samples without them; the probe needs two such classes"
        )
    require_finite_features(features)
    train, test = targets[task.train][:, kept], targets[task.test][:, kept]
    fitted = []
    for name, modality, x in each_encoder(features):
        probe, c = fit_multilabel(x[task.train], train, folds=config.folds, seed=config.seed)
        fitted.append((name, modality, probe.predict_proba(x[task.test]), c))
    # Not in the loop above: two displays of progress would overwrite each other.
    rows = [
        {"encoder": name, "modality": modality} | ranking_figures(scores, test, seed=config.seed) | {"C": c}
        for name, modality, scores, c in fitted
    ]
    return [*rows, {"encoder": CHANCE, "modality": "random order"} | chance_figures(test)]


def fit_multilabel(x: np.ndarray, targets: np.ndarray, *, folds: int, seed: int) -> tuple[Pipeline, float]:
    """Fits a probe to [n, F] features and bool [n, classes] targets; C has the best cross-validated mAP.

    The probe is scikit-learn's `OneVsRestClassifier(LogisticRegression(C))`, but fits all classes together, as a
    network without a hidden layer: hundreds of classes share each pass over the features.

    Returns:
        The probe and its C (of equals, the smallest).

    Raises:
        NotFiniteError: a feature is not finite.
    """
    require_finite(x, "the features")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        network = MLPClassifier(hidden_layer_sizes=(), solver="lbfgs", max_iter=500, random_state=seed)
        search = GridSearchCV(
            make_pipeline(StandardScaler(), network),
            {"mlpclassifier__alpha": [1 / c for c in CS]},
            scoring=_mean_average_precision,
            cv=KFold(min(folds, len(x)), shuffle=True, random_state=seed),
        ).fit(x.astype(np.float64), targets.astype(int))
    return search.best_estimator_, 1 / float(search.best_params_["mlpclassifier__alpha"])


def _mean_average_precision(probe: Pipeline, x: np.ndarray, targets: np.ndarray) -> float:
    """The mean over the classes that the held-out samples have; targets are int [n, classes]."""
    each = Ranking(probe.predict_proba(x), targets > 0).figures(np.ones(len(x), dtype=np.int64))[:, 0]
    return float(each[np.isfinite(each)].mean()) if np.isfinite(each).any() else 0.0
