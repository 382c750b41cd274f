"""Intervals against scipy, and the sentences about what few test samples can show."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest

from evaluation.notes import few_samples
from evaluation.statistics import accuracy_row, bootstrap, over_splits, wilson


@pytest.mark.parametrize(("hits", "n"), [(0, 7), (7, 7), (3, 7), (1, 1), (140, 200), (999, 1000)])
def test_wilson_equals_scipy(hits, n):
    expected = binomtest(hits, n).proportion_ci(method="wilson")
    assert wilson(hits / n, n) == pytest.approx([expected.low, expected.high], abs=1e-12)


def test_wilson_holds_the_truth_in_95_of_100_cases():
    rng = np.random.default_rng(0)
    truth = rng.uniform(size=4000)
    bounds = np.array([wilson(share, 30) for share in rng.binomial(30, truth) / 30])
    assert np.mean((bounds[:, 0] <= truth) & (truth <= bounds[:, 1])) == pytest.approx(0.95, abs=0.012)


def test_the_bootstrap_of_a_mean_is_near_its_standard_error():
    values = np.random.default_rng(0).normal(size=400)
    low, high = bootstrap(lambda drawn: float(np.average(values, weights=drawn)), 400, seed=0, purpose="test")
    half = 1.96 * values.std() / 20
    assert [low, high] == pytest.approx([values.mean() - half, values.mean() + half], abs=0.02)


def test_a_mean_over_splits_has_the_interval_of_the_distinct_samples():
    row = over_splits([{"accuracy": 0.5}, {"accuracy": 0.7}], tests=40)
    assert row["accuracy_interval"] == pytest.approx(wilson(0.6, 40))
    assert row["each"] == [0.5, 0.7]


def table(trained, random, *, n, majority=0):
    rows = [
        accuracy_row(name, "video", np.arange(n) < hits)
        for name, hits in (("pre-trained", trained), ("random-initialised", random), ("chance", majority))
    ]
    return [*rows[:2], rows[2] | {"modality": "majority class"}]


def test_seven_right_of_seven_do_not_beat_six_of_seven_but_beat_none():
    few, verdict = few_samples(table(7, 6, n=7), tests=7)[:2]
    assert few.startswith("7 test samples are few: a single one changes an accuracy or R@k by 0.143, and")
    assert few.endswith("near 0.5 is ± 0.30; with 100 samples it would be ± 0.10, with 400 ± 0.05.")
    assert verdict == "By accuracy, the test samples show that pre-trained is above chance (0.000) (video)."
    assert few_samples(table(7, 6, n=7), tests=7)[2] == (
        "By accuracy, the test samples do not show that pre-trained is above random-initialised (video)."
    )
    assert "that pre-trained is above random-initialised (video)" in few_samples(table(7, 0, n=7), tests=7)[1]


def test_an_encoder_below_chance_is_said_to_be_below():
    assert "pre-trained is below chance (1.000)" in few_samples(table(0, 6, n=7, majority=7), tests=7)[1]


def test_enough_samples_need_no_sentence():
    assert few_samples(table(30, 20, n=50), tests=50) == []


def test_recall_at_ten_needs_a_hundred_samples():
    rows = [{"encoder": "pre-trained", "modality": "any", "R@1": 0.1, "R@1_interval": [0, 1], "R@10_interval": [0, 1]}]
    assert "60 test samples are few for R@10:" in few_samples(rows, tests=60)[0]
    assert few_samples(rows, tests=100) == []
