"""The figures of benchmarks.curate on scores and sounds that are known."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.curate.__main__ import by_change, figures
from search.curate.verdicts import Verdicts

# The demo video with number n has kind n % 8 and speed n // 8 % 4.
SOUND_OF = {"00000.mp4": "00001.mp4", "00001.mp4": "00040.mp4", "00002.mp4": "00034.mp4"}
"""Swapped sounds: of another kind, of another speed, of the same kind and speed."""
SCORES = {0: 1.5, 1: -1.0, 2: 4.0} | {number: float(number) for number in range(3, 11)}


def scored(scores: dict[int, float]) -> Verdicts:
    n = len(scores)
    return Verdicts(
        sources=[f"{number:05d}.mp4" for number in scores],
        splits=[""] * n,
        folds=np.zeros(n, np.int64),
        scores=np.array(list(scores.values())),
        loudness=np.zeros(n),
        motion=np.zeros(n),
        duplicate_of=[""] * n,
        likeness=np.full((n, 2), np.nan),
        superfluous=np.zeros(n, bool),
        lowest_score=3.5,
    )


def test_the_auc_is_the_chance_that_a_swapped_pair_scores_lower():
    # Ten times the same, so that no resample lacks swapped pairs.
    often = {number + 1000 * again: score for again in range(10) for number, score in SCORES.items()}
    found = figures(scored(often), {f"{number:05d}.mp4": "" for number in often if number % 1000 < 3})
    # Of every 24 pairs of a swapped and an unchanged one, one is in the wrong order and one is a tie.
    assert found["auc"] == pytest.approx((24 - 1.5) / 24)
    assert (found["pairs"], found["swapped"]) == (110, 30)
    assert found["auc_interval"][0] < found["auc"] < found["auc_interval"][1] <= 1
    assert found["swapped_below_limit"] == pytest.approx(2 / 3)
    assert found["others_below_limit"] == pytest.approx(1 / 8)


def test_swapped_pairs_of_the_demo_corpus_are_divided_by_what_decides_the_sound():
    found = by_change(scored(SCORES), SOUND_OF)
    assert {change: record["swapped"] for change, record in found.items()} == {
        "other kind": 1,
        "other speed": 1,
        "same causes": 1,
    }
    assert found["other kind"]["auc"] == found["other speed"]["auc"] == 1
    assert found["same causes"]["auc"] == pytest.approx(6.5 / 8)
