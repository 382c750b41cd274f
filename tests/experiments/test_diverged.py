"""A trial that diverges is recorded as failed, the others go on, and no page counts it."""

from __future__ import annotations

import json
import math
import subprocess
from pathlib import Path

import pytest

from common.finite import NotFiniteError
from experiments import esc50_transfer, records, report, run, subprocess_trial
from experiments.analysis.summary import summarise
from settings.errors import ConfigError
from tests.experiments.test_report import HERE, record, results_of
from tests.experiments.test_trial import Corpus, run_trial, toy, toy_trial  # noqa: F401


def test_a_trial_whose_features_are_not_finite_fails_in_words(toy: Corpus):  # noqa: F811
    toy.train.audio[:] = math.nan
    toy.test.audio[0] = math.nan
    with pytest.raises(NotFiniteError, match="the audio features of the encoder are not finite for row 128"):
        run_trial(toy_trial("run.train.steps=1"), data=Path("."))
    toy.test.audio[0] = 0.0
    with pytest.raises(NotFiniteError, match="the figures of step 1 are not finite for loss"):
        run_trial(toy_trial("run.train.steps=1"), data=Path("."))


def test_a_diverged_trial_is_recorded_and_the_others_go_on(tmp_path: Path, monkeypatch, capsys):
    calls = []

    def result(settings, *, data, keep):
        calls.append(settings)
        if len(calls) == 2:
            raise NotFiniteError("the figures of step 5 are not finite for loss")
        return {"curve": [{"probe": 0.5}], "final": {"probe": 0.5}}

    monkeypatch.setattr(run, "run_trial", result)
    line = ["mutual_information", "--quick", "--data", str(tmp_path), "--results", str(tmp_path)]
    assert run.main(line) == 1
    recorded = records.load(tmp_path / "mutual_information.jsonl")
    assert len(recorded) == len(calls) > 2
    assert [r["failed"] for r in recorded if "failed" in r] == ["the figures of step 5 are not finite for loss"]
    assert "failed: the figures of step 5" in capsys.readouterr().out
    assert run.main(line) == 0  # a failed trial is not run again
    assert len(recorded) == len(calls)


def test_a_failed_trial_is_left_out_of_the_page_and_named(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(report, "EXPERIMENTS", ("mutual_information",))
    monkeypatch.setattr(report, "plot_experiment", lambda conditions, path: None)
    for number, (trial, found) in enumerate(results_of(0.05, 8)):
        found = {"failed": "the figures of step 5 are not finite for loss"} if number == 0 else found
        records.append(tmp_path / "mutual_information.jsonl", trial, found, HERE)
    assert report.main(["--results", str(tmp_path), "--docs", str(tmp_path / "docs")]) == 0
    page = (tmp_path / "docs" / "results" / "mutual_information.md").read_text()
    assert "**Failed and left out**: n=1 K=64 | fifo | seed 0: the figures of step 5 are not finite for loss." in page
    assert "15 trials on a cpu" in page
    assert "fifo 1 of 8" not in page


def test_a_summary_refuses_figures_that_are_not_finite_by_name():
    trials = results_of(0.05, 2)
    trials[1] = trials[1][0], record(math.nan)
    with pytest.raises(NotFiniteError, match=r"n=1 K=64 \| .* \| seed \d are not finite for final\.probe and 4 more"):
        summarise(trials, baseline="fifo")


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        ("train.py: the gradient was not finite in 9 steps in a row", NotFiniteError),
        ("a warning: x is not finite\ntrain.py: no space left", ConfigError),
    ],
)
def test_only_divergence_fails_a_trial_on_shards_alone(monkeypatch, error, kind):
    done = subprocess.CompletedProcess([], 2, stdout="", stderr=error + "\n")
    monkeypatch.setattr(subprocess, "run", lambda *args, **options: done)
    with pytest.raises(kind):
        subprocess_trial._start(["train.py"])


def test_esc50_goes_on_after_a_fold_that_diverges(tmp_path: Path, monkeypatch, capsys):
    def found(folder, fold, rule, settings):
        if rule == "hard":
            raise NotFiniteError("the features are not finite for row 3")
        return {"accuracy": 0.5, "cpu_seconds": 1.0}

    monkeypatch.setattr(esc50_transfer, "run_fold", found)
    assert esc50_transfer.main(["--quick", "--data", str(tmp_path), "--results", str(tmp_path)]) == 1
    assert "fold 1 | hard failed and is not recorded: the features are not finite" in capsys.readouterr().err
    lines = [json.loads(line) for line in (tmp_path / esc50_transfer.FILE).read_text().splitlines()]
    assert [line["rule"] for line in lines] == [rule for rule in esc50_transfer.RULES if rule != "hard"]
