"""Probes against reference computations, and that nothing of the test part reaches the fit."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_score

from common import phases
from evaluation.features import Features
from evaluation.probes import linear
from evaluation.probes.knn import run_knn
from evaluation.probes.linear import CS, fit_probe, run_linear
from evaluation.task import Split, Task
from settings.evaluation import EvaluationConfig


def blobs(n=120, classes=3, spread=0.5, seed=0):
    rng = np.random.default_rng(seed)
    codes = np.arange(n) % classes
    x = rng.normal(0, 1, (classes, 8))[codes] + rng.normal(0, spread, (n, 8))
    return x.astype(np.float32), codes.astype(np.int32)


def task_of(codes, test_share=0.25):
    test = np.arange(len(codes)) < test_share * len(codes)
    return Task(label="kind", codes=codes, split=Split(train=~test, test=test, origin="test"))


def test_a_long_fit_gives_signs_of_life(capsys, monkeypatch):
    """The fit of each probe lasts until a line on stderr names it."""
    x, y = blobs(n=16)
    expected = ["fitting the probe of pre-trained, video", "fitting the probe of pre-trained, audio"]

    def fit(x, y, **options):
        said, name, deadline = "", expected.pop(0), time.monotonic() + 30
        while name not in said:
            assert time.monotonic() < deadline
            said += capsys.readouterr().err
        return fit_probe(x, y, **options)

    monkeypatch.setattr(linear, "fit_probe", fit)
    phases.open_log("evaluate.py", interval=0.05)
    try:
        run_linear({"pre-trained": Features(pooled={"video": x, "audio": x})}, task_of(y), EvaluationConfig())
    finally:
        phases.close_log()
    assert not expected


def by_row(rows):
    return {(row["encoder"], row["modality"]): row for row in rows}


def test_linear_probe_chooses_c_as_sklearns_cross_validation_does():
    x, y = blobs(spread=2.0)
    folds = StratifiedKFold(4, shuffle=True, random_state=3)
    scores = []
    for c in CS:
        accuracies = []
        for fit, held in folds.split(x, y):
            mean, std = x[fit].mean(axis=0), x[fit].std(axis=0)
            probe = LogisticRegression(C=c, max_iter=500).fit((x[fit] - mean) / std, y[fit])
            accuracies.append(np.mean(probe.predict((x[held] - mean) / std) == y[held]))
        scores.append(np.mean(accuracies))
    probe, chosen = fit_probe(x, y, folds=4, seed=3)
    assert chosen == CS[int(np.argmax(scores))]
    assert cross_val_score(probe, x, y, cv=folds).mean() == pytest.approx(max(scores))


@pytest.mark.parametrize("run", [run_linear, run_knn])
def test_informative_features_beat_noise_and_chance(run):
    x, y = blobs()
    noise = np.random.default_rng(1).normal(size=x.shape).astype(np.float32)
    features = {"good": Features(pooled={"video": x}), "bad": Features(pooled={"video": noise, "audio": x})}
    rows = by_row(run(features, task_of(y), EvaluationConfig(k=3)))
    assert rows["good", "video"]["accuracy"] > 0.9
    assert rows["bad", "video"]["accuracy"] < 0.7
    assert rows["bad", "audio"]["accuracy"] == rows["good", "video"]["accuracy"]
    assert rows["chance", "majority class"]["accuracy"] == pytest.approx(1 / 3, abs=0.05)


@pytest.mark.parametrize("run", [run_linear, run_knn])
def test_labels_of_the_test_part_do_not_reach_the_fit(run):
    """With test labels exchanged, exactly the right answers become wrong."""
    x, y = blobs(classes=2)
    task = task_of(y)
    swapped = np.where(task.split.test, 1 - y, y).astype(np.int32)
    features = {"any": Features(pooled={"video": x})}
    first = run(features, task, EvaluationConfig())[0]["accuracy"]
    second = run(features, task_of(swapped), EvaluationConfig())[0]["accuracy"]
    assert first + second == pytest.approx(1)


def test_linear_probe_ignores_the_scale_of_features():
    x, y = blobs(spread=1.5)
    scaled = x * np.float32(1000) + np.float32(50)
    rows = run_linear(
        {"a": Features(pooled={"video": x}), "b": Features(pooled={"video": scaled})}, task_of(y), EvaluationConfig()
    )
    assert rows[0]["accuracy"] == pytest.approx(rows[1]["accuracy"], abs=0.04)


@pytest.mark.parametrize("run", [run_linear, run_knn])
def test_samples_with_unknown_labels_are_left_out(run):
    x, y = blobs()
    unknown = y.copy()
    unknown[::2] = -1
    kept = unknown >= 0
    features = {"any": Features(pooled={"video": x})}
    only_known = {"any": Features(pooled={"video": x[kept]})}
    task = task_of(unknown)
    assert run(features, task, EvaluationConfig()) == run(
        only_known, task.rows(np.flatnonzero(kept)), EvaluationConfig()
    )


@pytest.mark.parametrize("run", [run_linear, run_knn])
def test_a_class_with_one_training_sample_or_none_is_no_obstacle(run):
    x, y = blobs()
    y[0], y[1], y[-1] = 7, 8, 9  # two classes that only the test part has, one with a single training sample
    rows = run({"any": Features(pooled={"video": x})}, task_of(y), EvaluationConfig())
    assert 0.8 < rows[0]["accuracy"] < 1


def test_two_training_samples_are_enough_for_an_answer():
    x, y = blobs(n=4, classes=2)
    rows = run_linear({"any": Features(pooled={"video": x})}, task_of(y, test_share=0.5), EvaluationConfig())
    assert 0 <= rows[0]["accuracy"] <= 1


def test_knn_is_a_majority_vote_by_cosine():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(60, 5)).astype(np.float32), rng.integers(0, 2, 60).astype(np.int32)
    task = task_of(y)
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    correct = []
    for i in np.flatnonzero(task.test):
        nearest = np.argsort(-(unit[task.train] @ unit[i]))[:5]
        correct.append(np.bincount(y[task.train][nearest]).argmax() == y[i])
    row = run_knn({"any": Features(pooled={"video": x})}, task, EvaluationConfig(k=5))[0]
    assert row["accuracy"] == pytest.approx(np.mean(correct))
    assert row["k"] == 5


def test_knn_with_fewer_training_samples_than_neighbours_takes_all():
    x, y = blobs(n=12)
    assert run_knn({"any": Features(pooled={"video": x})}, task_of(y), EvaluationConfig(k=100))[0]["k"] == 9


def test_standard_error_is_that_of_a_share_of_the_test_samples():
    x, y = blobs(n=80, spread=3.0)
    row = run_knn({"any": Features(pooled={"video": x})}, task_of(y), EvaluationConfig())[0]
    p = row["accuracy"]
    assert 0 < p < 1
    assert row["standard_error"] == pytest.approx(math.sqrt(p * (1 - p) / 20))
