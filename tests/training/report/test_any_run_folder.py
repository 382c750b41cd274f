"""A report of whatever a run folder holds: drawn, left out or refused, always in words."""

from __future__ import annotations

import json
import os

import pytest

from training.report.__main__ import main
from training.report.runs import read_runs

GOOD = '{"step": 0, "loss_v2a": 2.0}\n'


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "run [" / "] \x1b"
    folder.mkdir(parents=True)
    (folder / "metrics.jsonl").write_text(GOOD)
    return folder


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("config.yaml", "a: &a [x, x]\nb: &b [" + "*a, " * 200 + "]\nc: [" + "*b, " * 200 + "]", "more than 10,000"),
        ("config.yaml", "a: &o {b: *o}", "a value that contains itself"),
        ("config.yaml", "[" * 5000, "nested too deeply"),
        ("config.yaml", "#" * 2**19, "longer than 262,144 characters"),
        ("environment.json", '{"a":' * 900 + "1" + "}" * 900, ""),
        ("environment.json", "[" * 100_000, "nested too deeply"),
        ("environment.json", '{"a": 1' + "0" * 5000 + "}", "ignored"),
    ],
)
def test_settings_that_cannot_be_shown_are_left_out_with_the_reason(run, tmp_path, capsys, name, text, reason):
    (run / name).write_text(text)
    assert main([str(run), "--out", str(tmp_path / "report")]) == 0
    error = capsys.readouterr().err
    assert reason in error
    assert "Traceback" not in error


def test_numbers_of_any_length_are_shown_in_words(run, tmp_path, capsys):
    (run / "config.yaml").write_text("seed: 0x" + "f" * 5000 + "\nother: " + "9" * 400)
    more = [{"step": 1, "loss_v2a": 10**400}, {"step": 10**400, "loss_v2a": 1.0}, {"step": True, "loss_v2a": 7.0}]
    (run / "metrics.jsonl").write_text(GOOD + "".join(json.dumps(entry) + "\n" for entry in more))
    assert main([str(run), "--out", str(tmp_path / "report")]) == 0
    printed = capsys.readouterr().err
    assert "1 values are not finite" in printed
    assert "the first is loss_v2a at step 1" in printed
    text = (tmp_path / "report.html").read_text()
    assert "a very long number" in text
    assert "not finite" in text


def test_metrics_of_other_names_are_drawn_and_none_with_finite_values_is_refused(run, tmp_path, capsys):
    (run / "metrics.jsonl").write_text('{"step": 0, "my own/metric": 1.0}\n')
    assert main([str(run), "--out", str(tmp_path / "report")]) == 0
    (run / "metrics.jsonl").write_text('{"step": 0, "loss_v2a": NaN}\n')
    assert main([str(run), "--out", str(tmp_path / "report")]) == 2
    assert "nothing to draw: no metric (loss_v2a) has a finite value" in capsys.readouterr().err


def test_long_lines_are_broken_ones_and_pipes_are_refused(run, tmp_path, capsys):
    (run / "metrics.jsonl").write_text(GOOD + "x" * 3 * 2**20 + "\n" + '{"step": 5, "loss_v2a": 1.0}\n')
    assert read_runs([run])[0].curves["loss_v2a"][0].tolist() == [0, 5]
    assert "1 broken line(s) ignored, the first is line 2" in capsys.readouterr().err
    (run / "metrics.jsonl").unlink()
    os.mkfifo(run / "metrics.jsonl")
    assert main([str(run), "--out", str(tmp_path / "report")]) == 2
    assert "is not a regular file" in capsys.readouterr().err
