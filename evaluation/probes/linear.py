"""The linear probe: logistic regression on standardised frozen features."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, KFold, StratifiedKFold
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from common.finite import require_finite
from evaluation.features import Features, each_encoder, require_finite_features
from evaluation.statistics import accuracy_row, majority_row
from evaluation.task import Task
from settings.evaluation import EvaluationConfig

CS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)


def run_linear(features: Mapping[str, Features], task: Task, config: EvaluationConfig) -> list[dict[str, Any]]:
    """Test accuracy of a probe for each modality and encoder, and of the majority class.

    Raises:
        NotFiniteError: a feature is not finite; the message names the row.
    """
    require_finite_features(features)
    rows = []
    for name, modality, pooled in each_encoder(features):
        probe, c = fit_probe(pooled[task.train], task.codes[task.train], folds=config.folds, seed=config.seed)
        correct = probe.predict(pooled[task.test]) == task.codes[task.test]
        rows.append(accuracy_row(name, modality, correct) | {"C": c})
    return [*rows, majority_row(task)]


def fit_probe(x: np.ndarray, y: np.ndarray, *, folds: int, seed: int) -> tuple[Pipeline, float]:
    """Fits a probe to [n, F] features and [n] classes; C has the best cross-validated accuracy (ties: the smallest).

    Folds are stratified if every class has at least one sample per fold, otherwise plain. If a plain fold left only
    one class to fit, there are too few samples to choose by, and C is 1.

    Returns:
        The probe and its C.

    Raises:
        NotFiniteError: a feature is not finite.
    """
    require_finite(x, "the features")
    folds = min(folds, len(y))
    fewest = np.unique(y, return_counts=True)[1].min()
    cv = (StratifiedKFold if fewest >= folds else KFold)(folds, shuffle=True, random_state=seed)
    can_choose = all(len(np.unique(y[fit])) > 1 for fit, _ in cv.split(x, y))
    # The matrix products are so small that BLAS threads, waiting for each other, take five times as long.
    with threadpool_limits(1), warnings.catch_warnings():
        # Separable classes have no finite optimum under weak regularisation; such a C wins only if it predicts well.
        warnings.simplefilter("ignore", ConvergenceWarning)
        pipeline = make_pipeline(StandardScaler(), LogisticRegression(max_iter=500))
        if not can_choose:
            return pipeline.set_params(logisticregression__C=1.0).fit(x, y), 1.0
        search = GridSearchCV(pipeline, {"logisticregression__C": list(CS)}, cv=cv).fit(x, y)
    return search.best_estimator_, float(search.best_params_["logisticregression__C"])
