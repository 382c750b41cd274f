"""Ranks and recalls against a plain computation."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest
from scipy.stats import bootstrap as scipy_bootstrap

from evaluation.features import Features
from evaluation.notes import omitted_recalls
from evaluation.pair_retrieval import RECALL_AT, pair_ranks, run_pair_retrieval, summarise
from evaluation.task import Split
from settings import ConfigError
from settings.evaluation import EvaluationConfig


def whole(n):
    return Split(train=np.zeros(n, bool), test=np.ones(n, bool), origin="test")


def test_ranks_are_places_in_the_sorted_cosines():
    rng = np.random.default_rng(0)
    queries, keys = rng.normal(size=(30, 6)), rng.normal(size=(30, 6))
    for i, rank in enumerate(pair_ranks(queries, keys)):
        cosines = [q @ queries[i] / np.linalg.norm(q) for q in keys]
        assert sorted(cosines, reverse=True).index(cosines[i]) + 1 == rank


def test_a_collapsed_encoder_ranks_every_pair_last():
    same = np.tile(np.random.default_rng(0).normal(size=(1, 128)), (9, 1)).astype(np.float32)
    assert (pair_ranks(same, same) == 9).all()


def test_recall_and_median_are_those_of_the_ranks():
    summary = summarise(np.repeat([1, 1, 5, 6, 11], 5), seed=0)
    assert (summary["R@1"], summary["R@5"], summary["R@10"]) == (0.4, 0.6, 0.8)
    assert summary["median_rank"] == 5


@pytest.mark.parametrize(("n", "reported"), [(3, {1}), (10, {1}), (11, {1, 5}), (20, {1, 5}), (21, {1, 5, 10})])
def test_recall_is_reported_only_where_a_random_order_reaches_less_than_one_half(n, reported):
    random = {"any": Features(embedding={m: np.random.default_rng(0).normal(size=(n, 4)) for m in ("video", "audio")})}
    measured, _, chance = run_pair_retrieval(random, whole(n), EvaluationConfig())
    for row in (measured, chance):
        assert {int(key[2:]) for key in row if key.startswith("R@") and "_" not in key} == reported
    assert all(value < 0.5 for key, value in chance.items() if key.startswith("R@"))
    assert bool(omitted_recalls(RECALL_AT, n)) == (len(reported) < 3)


def test_intervals_are_those_of_the_share_and_of_the_resampled_median():
    ranks = np.random.default_rng(3).integers(1, 60, size=80)
    summary = summarise(ranks, seed=0)
    expected = binomtest(int((ranks <= 5).sum()), 80).proportion_ci(method="wilson")
    assert summary["R@5_interval"] == pytest.approx([expected.low, expected.high])
    theirs = scipy_bootstrap((ranks,), np.median, method="percentile", rng=np.random.default_rng(0)).confidence_interval
    assert summary["median_rank_interval"] == pytest.approx([theirs.low, theirs.high], abs=2)
    assert summary == summarise(ranks, seed=0)
    assert summary["median_rank_interval"] != summarise(ranks, seed=1)["median_rank_interval"]


def test_only_test_samples_compete_and_both_directions_are_reported():
    rng = np.random.default_rng(0)
    video = rng.normal(size=(40, 8)).astype(np.float32)
    audio = video + rng.normal(0, 0.8, (40, 8)).astype(np.float32)
    test = np.arange(40) < 12
    split = Split(train=~test, test=test, origin="test")
    both = {"any": Features(embedding={"video": video, "audio": audio})}
    part = {"any": Features(embedding={"video": video[:12], "audio": audio[:12]})}
    rows = run_pair_retrieval(both, split, EvaluationConfig())
    assert rows == run_pair_retrieval(part, whole(12), EvaluationConfig())
    assert [row["modality"] for row in rows] == ["video to audio", "audio to video", "random order"]


def test_chance_is_that_of_a_random_order():
    rng = np.random.default_rng(0)
    random = {"any": Features(embedding={m: rng.normal(size=(400, 32)) for m in ("video", "audio")})}
    measured, _, chance = run_pair_retrieval(random, whole(400), EvaluationConfig())
    assert chance["R@10"] == 10 / 400
    assert chance["median_rank"] == 200.5
    assert measured["R@10"] == pytest.approx(chance["R@10"], abs=0.03)
    assert measured["median_rank"] == pytest.approx(chance["median_rank"], rel=0.2)


def test_data_of_one_modality_are_refused():
    silent = {"any": Features(embedding={"video": np.ones((4, 3))})}
    with pytest.raises(ConfigError, match="both video and audio"):
        run_pair_retrieval(silent, whole(4), EvaluationConfig())


def test_two_test_samples_are_refused():
    with pytest.raises(ConfigError, match="at least three test samples, not 2"):
        run_pair_retrieval({}, whole(2), EvaluationConfig())
