from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from experiments import report, results
from experiments.summary import sentences, summarise
from experiments.sweep import load_sweep, plan

RULES = ("fifo", "kmeanspp gradient")


def record(probe: float, *, seconds: float = 10.0) -> dict[str, Any]:
    curve = [
        {"step": 100 * i, "cpu_seconds": seconds * i, "probe": probe * i / 4, "retrieval": 0.1, "distinct": 1.0}
        for i in (1, 2, 3, 4)
    ]
    return {"curve": curve, "final": curve[-1]}


def results_of(advantage: float, seeds: int) -> list[tuple[Any, dict[str, Any]]]:
    """fifo at about 0.5, the other above it by `advantage`, with noise that the seeds share."""
    noise = np.random.default_rng(0).normal(0, 0.05, size=seeds)
    own = np.random.default_rng(1).normal(0, 0.004, size=(2, seeds))
    found = []
    for trial in plan(load_sweep("mutual_information"), ["main"]):
        if trial.rule in RULES and trial.seed < seeds:
            place = RULES.index(trial.rule)
            found.append((trial, record(0.5 + noise[trial.seed] + own[place, trial.seed] + place * advantage)))
    return found


def claims(advantage: float, seeds: int) -> str:
    ((condition, rows),) = summarise(results_of(advantage, seeds), baseline="fifo").items()
    return "\n".join(sentences(condition, rows, baseline="fifo"))


def test_a_difference_is_claimed_with_its_sign_when_seeds_agree():
    assert "**beats `fifo`** by 0.049" in claims(0.05, 8)
    assert "**is worse than `fifo`**" in claims(-0.05, 8)


def test_no_difference_is_claimed_without_significance_or_with_few_seeds():
    assert "no difference from `fifo` is shown" in claims(0.0, 8)
    assert "too few for a claim" in claims(0.05, 4)


def test_a_winner_is_timed_to_the_baselines_final_probe():
    ((_, rows),) = summarise(results_of(0.5, 8), baseline="fifo").items()
    assert rows[1].rule == "kmeanspp gradient"
    # The other is twice as good, so that it is there at the second of four measurements or at the third.
    assert rows[1].reaches["step"] in (0.5, 0.75)
    assert "of its CPU seconds" in claims(0.5, 8)


def test_the_report_is_made_from_the_lines_and_says_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(report, "EXPERIMENTS", ("mutual_information", "av_mnist"))
    here = {"cpu": "a cpu", "gpu": None, "versions": {"torch": "2"}, "commit": "abc"}
    for trial, found in results_of(0.05, 8):
        results.append(tmp_path / "mutual_information.jsonl", trial, found, here)
    assert report.main(["--results", str(tmp_path), "--docs", str(tmp_path / "docs")]) == 0
    page = (tmp_path / "docs" / "results.md").read_text()
    assert "`kmeanspp gradient` **beats `fifo`**" in page
    assert "Not run yet" in page
    assert "n=1 K=64: kmeanspp negative_gradient 8 of 8, uniform 8 of 8" in page
    assert "nothing at all of" in page
    assert "16 trials on a cpu" in page
    assert (tmp_path / "docs" / "results" / "mutual_information.png").stat().st_size > 10_000
    assert (tmp_path / "mutual_information.json").is_file()
    assert not (tmp_path / "av_mnist.json").exists()
