"""Retrieval and accuracies against torchmetrics and scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import top_k_accuracy_score
from torchmetrics.functional.classification import multiclass_accuracy
from torchmetrics.retrieval import RetrievalHitRate

from evaluation.class_retrieval import first_hits, run_class_retrieval
from evaluation.features import Features
from evaluation.finetune import top_k
from evaluation.pair_retrieval import pair_ranks
from evaluation.task import Split, Task
from settings.evaluation import EvaluationConfig


def hit_rate(queries: np.ndarray, gallery: np.ndarray, relevant: np.ndarray, k: int) -> float:
    """torchmetrics' share of queries with a relevant row among the first k by cosine."""
    similarities = torch.nn.functional.cosine_similarity(
        torch.from_numpy(queries)[:, None], torch.from_numpy(gallery)[None], dim=2
    )
    indexes = torch.arange(len(queries))[:, None].expand(-1, len(gallery))
    metric = RetrievalHitRate(top_k=k)
    return float(metric(similarities.flatten(), torch.from_numpy(relevant).flatten(), indexes.flatten()))


@pytest.mark.parametrize("k", [1, 5, 20])
def test_class_retrieval_equals_torchmetrics(k):
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 12, 260)
    centres = rng.normal(size=(12, 16))
    features = (centres[codes] + rng.normal(0, 1.5, (260, 16))).astype(np.float32)
    test = np.arange(260) >= 200
    task = Task(label="any", codes=codes, split=Split(train=~test, test=test, origin="test"))
    measured, _ = run_class_retrieval({"any": Features(pooled={"video": features})}, task, EvaluationConfig())
    relevant = codes[test][:, None] == codes[~test][None]
    assert measured[f"R@{k}"] == pytest.approx(hit_rate(features[test], features[~test], relevant, k), abs=1e-6)


@pytest.mark.parametrize("k", [1, 5, 10])
def test_pair_retrieval_equals_torchmetrics(k):
    rng = np.random.default_rng(1)
    video = rng.normal(size=(50, 8)).astype(np.float32)
    audio = (video + rng.normal(0, 1.5, (50, 8))).astype(np.float32)
    ours = np.mean(pair_ranks(video, audio) <= k)
    assert ours == pytest.approx(hit_rate(video, audio, np.eye(50, dtype=bool), k), abs=1e-6)


@pytest.mark.parametrize("k", [1, 5])
def test_top_k_equals_torchmetrics_and_scikit_learn(k):
    rng = np.random.default_rng(2)
    codes = rng.integers(0, 9, 300)
    scores = rng.random((300, 9)) + 0.5 * np.eye(9)[codes]
    theirs = multiclass_accuracy(torch.from_numpy(scores), torch.from_numpy(codes), 9, average="micro", top_k=k)
    assert top_k(scores, codes, k) == pytest.approx(float(theirs), abs=1e-6)
    assert top_k(scores, codes, k) == pytest.approx(top_k_accuracy_score(codes, scores, k=k))


def test_a_collapsed_encoder_finds_nothing_early():
    same = np.ones((8, 4), dtype=np.float32)
    codes = np.arange(8) % 4
    assert first_hits(same, codes, same, codes).tolist() == [7] * 8


def test_a_class_that_the_gallery_lacks_is_never_found():
    rng = np.random.default_rng(3)
    hits = first_hits(rng.normal(size=(2, 3)), np.array([0, 5]), rng.normal(size=(6, 3)), np.zeros(6, dtype=int))
    assert hits.tolist() == [1, 7]


def test_chance_is_that_of_a_random_order():
    rng = np.random.default_rng(4)
    codes = rng.choice(10, 3000, p=np.arange(1, 11) / 55)
    features = rng.normal(size=(3000, 32)).astype(np.float32)
    test = np.arange(3000) >= 1000
    task = Task(label="any", codes=codes, split=Split(train=~test, test=test, origin="test"))
    measured, chance = run_class_retrieval({"any": Features(pooled={"video": features})}, task, EvaluationConfig())
    for name in ("R@1", "R@5"):
        assert measured[name] == pytest.approx(chance[name], abs=0.035)
