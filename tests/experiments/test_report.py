from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from experiments import RESULTS, esc50_page, records, report
from experiments.analysis.summary import sentences, summarise
from experiments.sweep import load_sweep, plan

RULES = ("fifo", "kmeanspp gradient")


HERE = {"cpu": "a cpu", "gpu": None, "versions": {"torch": "2"}, "commit": "abc"}


def record(probe: float, *, commit: str = "abc") -> dict[str, Any]:
    same = {"retrieval": 0.1, "distinct": 1.0}
    curve = [
        {"step": 100 * i, "cpu_seconds": 10.0 * i, "wall_seconds": 11.0 * i, "probe": probe * i / 4, **same}
        for i in (1, 2, 3, 4)
    ]
    return {"curve": curve, "final": curve[-1], "environment": HERE | {"commit": commit}}


def results_of(advantage: float, seeds: int) -> list[tuple[Any, dict[str, Any]]]:
    """fifo at about 0.5, the other above it by `advantage`; per seed both share a noise, and have a little more."""
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
    assert "shows no difference from `fifo`" in claims(0.0, 8)
    assert "too few for a claim" in claims(0.05, 4)


def test_a_winner_is_timed_to_the_baselines_final_probe():
    ((_, rows),) = summarise(results_of(0.5, 8), baseline="fifo").items()
    assert rows[1].rule == "kmeanspp gradient"
    # The other is twice as good, so that it is there at the second of four measurements or at the third.
    assert rows[1].reaches["step"] in (0.5, 0.75)
    assert "of its CPU seconds" in claims(0.5, 8)


def test_seconds_are_compared_on_one_machine_and_commit_only():
    trials = results_of(0.5, 8)
    mixed = [(t, r | {"environment": HERE | {"commit": t.rule}}) for t, r in trials]
    ((condition, rows),) = summarise(mixed, baseline="fifo").items()
    assert set(rows[1].reaches) == {"step"}
    (sentence,) = sentences(condition, rows, baseline="fifo")
    assert "of its steps." in sentence


def test_without_curves_no_time_is_told():
    ends = [(t, r | {"curve": r["curve"][-1:]}) for t, r in results_of(0.5, 8)]
    ((_, rows),) = summarise(ends, baseline="fifo").items()
    assert all(row.reaches == {} for row in rows)


def test_p_is_adjusted_for_all_rules_and_conditions_of_the_experiment():
    trials = [(t, record(0.5)) for t in plan(load_sweep("mutual_information"), ["main"]) if t.rule not in RULES]
    ((_, rows),) = summarise([*results_of(0.05, 8), *trials], baseline="fifo").items()
    claimed, other = (row for row in rows if row.rule != "fifo")
    smaller, larger = sorted([claimed, other], key=lambda row: row.against["probe"].p)
    assert smaller.adjusted_p == pytest.approx(2 * smaller.against["probe"].p)
    assert larger.adjusted_p == pytest.approx(max(larger.against["probe"].p, smaller.adjusted_p))


def test_the_report_is_made_from_the_lines_and_says_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(report, "EXPERIMENTS", ("mutual_information", "av_mnist"))
    for trial, found in results_of(0.05, 8):
        records.append(tmp_path / "mutual_information.jsonl", trial, found, HERE)
    assert report.main(["--results", str(tmp_path), "--docs", str(tmp_path / "docs")]) == 0
    index = (tmp_path / "docs" / "results.md").read_text()
    for name in ("mutual_information", "av_mnist", "esc50"):
        assert f"](results/{name}.md) | " in index
        assert (tmp_path / "docs" / "results" / f"{name}.md").is_file()
    page = (tmp_path / "docs" / "results" / "mutual_information.md").read_text()
    sweep = load_sweep("mutual_information")
    assert page.index(sweep.question) < page.index(sweep.verdict.strip()) < page.index("| `kmeanspp gradient` | 8 |")
    assert "Not run yet" in page
    assert "n=1 K=64: kmeanspp negative_gradient 8 of 8, uniform 8 of 8" in page
    assert "nothing at all of" in page
    assert "16 trials on a cpu" in page
    figures = (tmp_path / "mutual_information.md").read_text()
    assert "`kmeanspp gradient` **beats `fifo`**" in figures
    assert (tmp_path / "docs" / "results" / "mutual_information.png").stat().st_size > 10_000
    assert (tmp_path / "mutual_information.json").is_file()
    assert not (tmp_path / "av_mnist.json").exists()


def test_a_planned_experiment_has_a_page_once_it_is_begun_on_test_seeds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(report, "EXPERIMENTS", ())
    arguments = ["--results", str(tmp_path), "--docs", str(tmp_path / "docs")]
    trials = [t for t in plan(load_sweep("rivals")) if t.condition.endswith("0 1 2") or t.group == "tuning"]
    tuned = next(t for t in trials if t.group == "tuning")
    records.append(tmp_path / "rivals.jsonl", tuned, record(0.5), HERE)
    assert report.main(arguments) == 0
    page = tmp_path / "docs" / "results" / "rivals.md"
    assert not page.exists()
    for trial in trials:
        if trial.group == "equal keys" and trial.rule in ("queue", "paper") and trial.seed < 1006:
            found = record(0.5 + 0.05 * (trial.rule == "paper") + 0.001 * (trial.seed % 5))
            records.append(tmp_path / "rivals.jsonl", trial, found, HERE)
    assert report.main(arguments) == 0
    text = page.read_text()
    assert text.index("## Primary comparisons") < text.index("## Secondary comparisons") < text.index("Not run yet")
    assert "| `paper` − `queue` | AV-MNIST 0 1 2 | 6 | 0.050 ± " in text
    assert "| `authors` − `queue` | AV-MNIST 0 1 2 |  | not run |" in text
    assert "The aim for `whole pool, two-way` cannot be decided yet" in text
    assert not (tmp_path / "docs" / "results" / "ratios.md").exists()


def test_the_committed_pages_are_those_of_the_committed_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    # A setting that is newer than the results belongs in experiments.sweep.LATER_SETTINGS; otherwise no result matches
    # its trial any more.
    results, docs = shutil.copytree(RESULTS, tmp_path / "results"), tmp_path / "docs"
    monkeypatch.setattr(report, "plot_experiment", lambda conditions, path: None)
    monkeypatch.setattr(esc50_page, "_plot", lambda table, path: None)
    assert report.main(["--results", str(results), "--docs", str(docs)]) == 0
    for made in [*docs.rglob("*.md"), *results.glob("*.md")]:
        folder = report.DOCS if made.is_relative_to(docs) else RESULTS
        committed = folder / made.relative_to(docs if made.is_relative_to(docs) else results)
        assert made.read_text() == committed.read_text(), f"{committed}: run python -m experiments.report"
        assert "Not run yet" not in made.read_text()
