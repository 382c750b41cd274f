"""Clips with several labels each: reading them, and the probe against scikit-learn."""

from __future__ import annotations

import json

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score
from sklearn.multiclass import OneVsRestClassifier
from sklearn.preprocessing import StandardScaler

import evaluate
from evaluation.features import Features
from evaluation.probes.multilabel import fit_multilabel, read_targets, run_multilabel
from evaluation.task import Split, Task
from pipeline.shards.manifest import Manifest
from settings import ConfigError
from settings.evaluation import EvaluationConfig


class Data:
    """A column of labels."""

    def __init__(self, *values):
        self.values = values

    def label_names(self, column):
        return sorted(set(self.values) - {""})

    def labels(self, column):
        return np.array([self.label_names(column).index(value) if value else -1 for value in self.values])


def test_a_value_names_several_classes():
    targets, classes = read_targets(Data("dog;rain", "rain", "", "cat; dog;dog;"), "label", separator=";")
    assert classes == ["cat", "dog", "rain"]
    assert targets.tolist() == [[False, True, True], [False, False, True], [False] * 3, [True, True, False]]


def test_audiosets_lists_have_commas():
    targets, classes = read_targets(Data("/m/068hy,/m/07q6cd_", "/m/068hy"), "label", separator=",")
    assert classes == ["/m/068hy", "/m/07q6cd_"]
    assert targets.sum(axis=0).tolist() == [2, 1]
    with pytest.raises(ConfigError, match="label column label holds the separator ';', so no clip has several"):
        read_targets(Data("/m/068hy,/m/07q6cd_"), "label", separator=";")


def case(n=240, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 12)).astype(np.float32)
    targets = x @ rng.normal(size=(12, 4)) + rng.normal(0, 2, (n, 4)) > [0, 1, 2, 4]
    return x, targets


def test_the_probe_is_one_logistic_regression_per_class():
    x, targets = case()
    probe, c = fit_multilabel(x[:160], targets[:160], folds=3, seed=0)
    scaled = StandardScaler().fit(x[:160].astype(np.float64))
    theirs = OneVsRestClassifier(LogisticRegression(C=c, max_iter=1000)).fit(scaled.transform(x[:160]), targets[:160])
    expected = theirs.predict_proba(scaled.transform(x[160:]))
    np.testing.assert_allclose(probe.predict_proba(x[160:]), expected, atol=5e-3)


def test_map_is_scikit_learns_over_the_classes_that_both_parts_hold():
    x, targets = case()
    targets = np.concatenate([targets, np.zeros((240, 1), bool)], axis=1)
    targets[3, 4] = True  # a class of one training sample, which the mean leaves out
    test = np.arange(240) >= 160
    task = Task(label="label", codes=np.zeros(240, int), split=Split(train=~test, test=test, origin="test"))
    row, chance = run_multilabel({"any": Features(pooled={"audio": x})}, task, targets, EvaluationConfig(folds=3))
    probe, c = fit_multilabel(x[~test], targets[~test][:, :4], folds=3, seed=0)
    expected = average_precision_score(targets[test][:, :4], probe.predict_proba(x[test]), average="macro")
    assert row["mAP"] == pytest.approx(expected)
    assert row["C"] == c
    assert row["mAP_interval"][0] > chance["mAP"]
    assert chance["mAP"] == pytest.approx(targets[test][:, :4].mean(), abs=0.06)


def test_evaluate_prints_map_for_a_column_of_several_labels(run, shards, monkeypatch, capsys):
    monkeypatch.setattr("evaluation.statistics.RESAMPLES", 50)
    names = Manifest.label_names

    def several(data, column):
        return [f"any;{name}" if column == "kind" else name for name in names(data, column)]

    monkeypatch.setattr(Manifest, "label_names", several)
    options = ["--protocol", "multilabel", "--label", "kind", "clips=1", "folds=2", "device=cpu"]
    assert evaluate.main(["--checkpoint", str(run), "--data", str(shards), *options]) == 0
    result = json.loads((run / "evaluation-multilabel-kind.json").read_text())
    assert [row["encoder"] for row in result["rows"]] == ["pre-trained"] * 2 + ["random-initialised"] * 2 + ["chance"]
    assert "2.0 labels per sample" in result["caption"]
    # Every sample has the class any, and two of the eight kinds have no test sample.
    assert "means over 6 of the 9 classes of kind" in result["notes"][0]
    row = result["rows"][0]
    low, high = row["mAP_interval"]
    assert f"{row['mAP']:.3f} [{low:.3f}, {high:.3f}]" in capsys.readouterr().out


def test_one_class_is_not_enough():
    x, targets = case()
    test = np.arange(240) >= 160
    task = Task(label="label", codes=np.zeros(240, int), split=Split(train=~test, test=test, origin="test"))
    with pytest.raises(ConfigError, match=r"1 of the 1 classes of --label label .* needs two such classes"):
        run_multilabel({"any": Features(pooled={"audio": x})}, task, targets[:, :1], EvaluationConfig())
