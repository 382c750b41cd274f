"""Average precision, area under the curve and d-prime against scikit-learn and SciPy; what the intervals cover."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import average_precision_score, roc_auc_score

from evaluation.ranking import Ranking, chance_figures, d_prime, left_out, measurable, ranking_figures


def case(n=120, classes=7, seed=0, ties=False):
    rng = np.random.default_rng(seed)
    targets = rng.random((n, classes)) < np.linspace(0.05, 0.6, classes)
    scores = rng.normal(size=(n, classes)) + targets
    return np.round(scores) if ties else scores, targets


@pytest.mark.parametrize("ties", [False, True])
def test_figures_equal_scikit_learns(ties):
    scores, targets = case(ties=ties)
    figures = ranking_figures(scores, targets, seed=0)
    assert figures["mAP"] == pytest.approx(average_precision_score(targets, scores, average="macro"))
    assert figures["AUC"] == pytest.approx(roc_auc_score(targets, scores, average="macro"))
    assert figures["d_prime"] == pytest.approx(stats.norm.ppf(figures["AUC"]) * np.sqrt(2))
    for name in ("mAP", "AUC", "d_prime"):
        low, high = figures[f"{name}_interval"]
        assert low < figures[name] < high
        assert high - low < 1


@pytest.mark.parametrize("ties", [False, True])
def test_samples_drawn_several_times_weigh_as_in_scikit_learn(ties):
    scores, targets = case(seed=1, ties=ties)
    drawn = np.random.default_rng(2).integers(0, 4, len(scores))
    figures = Ranking(scores, targets).figures(drawn)
    repeated = np.repeat(np.arange(len(scores)), drawn)
    for column, (precision, auc) in enumerate(figures):
        pair = targets[repeated, column], scores[repeated, column]
        assert precision == pytest.approx(average_precision_score(*pair))
        assert auc == pytest.approx(roc_auc_score(*pair))


def test_the_interval_shrinks_with_the_square_root_of_the_samples():
    widths = []
    for n in (100, 1600):
        low, high = ranking_figures(*case(n=n, classes=2), seed=0)["mAP_interval"]
        widths.append(high - low)
    assert widths[0] / widths[1] == pytest.approx(4, rel=0.4)


def test_a_class_that_a_resample_lacks_has_no_figures():
    figures = Ranking(np.array([[3.0], [2.0], [1.0]]), np.array([[True], [False], [False]])).figures
    assert np.isnan(figures(np.array([0, 2, 1]))).all()
    precision, auc = figures(np.array([3, 0, 0]))[0]
    assert precision == 1
    assert np.isnan(auc)


def test_chance_is_that_of_random_scores():
    rng = np.random.default_rng(0)
    for n, tolerance in ((6, 0.02), (60, 0.015)):
        targets = np.arange(n)[:, None] < np.ceil(n * np.array([0.02, 0.2, 0.7]))
        orders = range(24000 // n)
        each = [Ranking(rng.random((n, 3)), targets).figures(np.ones(n, dtype=int)).mean(axis=0) for _ in orders]
        chance = chance_figures(targets)
        assert np.mean(each, axis=0) == pytest.approx([chance["mAP"], chance["AUC"]], abs=tolerance)


def test_the_interval_holds_the_expected_map_of_such_a_test_set(monkeypatch):
    monkeypatch.setattr("evaluation.statistics.RESAMPLES", 100)
    figures = [ranking_figures(*case(n=100, classes=3, seed=seed), seed=0) for seed in range(60)]
    for name in ("mAP", "AUC"):
        expected = np.mean([each[name] for each in figures])
        held = [each[f"{name}_interval"][0] <= expected <= each[f"{name}_interval"][1] for each in figures]
        assert np.mean(held) >= 0.87


def test_perfect_and_reversed_orders_have_finite_d_primes():
    assert d_prime(1.0) > 8 > -8 > d_prime(0.0)
    assert d_prime(0.5) == 0


def test_classes_without_train_or_test_samples_are_left_out_and_counted():
    train = np.array([[1, 1, 0, 1]], dtype=bool)
    test = np.array([[1, 0, 1, 1], [0, 0, 1, 1]], dtype=bool)
    kept = measurable(train, test)
    assert kept.tolist() == [True, False, False, False]
    assert "means over 1 of the 4 classes of kind" in left_out(kept, label="kind")[0]
    assert not left_out(np.ones(3, bool), label="kind")
