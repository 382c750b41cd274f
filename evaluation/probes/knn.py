"""The k-nearest-neighbours protocol: cosine similarity, one vote per neighbour."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from evaluation.features import Features, each_encoder, require_finite_features
from evaluation.statistics import accuracy_row, majority_row
from evaluation.task import Task
from settings.evaluation import EvaluationConfig


def run_knn(features: Mapping[str, Features], task: Task, config: EvaluationConfig) -> list[dict[str, Any]]:
    """Test accuracy of each modality and encoder, and of the majority class.

    k is at most the number of training samples.

    Raises:
        NotFiniteError: a feature is not finite; the message names the row.
    """
    # Imported where it is used, because it takes seconds to load.
    from sklearn.neighbors import KNeighborsClassifier

    k = min(config.k, int(task.train.sum()))
    require_finite_features(features)
    rows = []
    for name, modality, pooled in each_encoder(features):
        neighbours = KNeighborsClassifier(n_neighbors=k, metric="cosine", algorithm="brute")
        neighbours.fit(pooled[task.train], task.codes[task.train])
        correct = neighbours.predict(pooled[task.test]) == task.codes[task.test]
        rows.append(accuracy_row(name, modality, correct) | {"k": k})
    return [*rows, majority_row(task)]
