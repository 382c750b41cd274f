"""The report: its panels, its page, and its errors and warnings."""

from __future__ import annotations

import json

import numpy as np
import pytest

from settings import to_yaml
from tests.training.report.test_page import data_of
from tests.training.small_run import small_config
from training.report.__main__ import main
from training.report.panels import colours, panels_of, smoothed
from training.report.runs import ReportError, read_runs


def line(step, **more):
    return {"step": step, "epoch": 0, "loss_v2a": 4 / (step + 1), "lr": 0.01, "video/share": 0.5, **more}


def make_run(folder, lines=None, *, overrides=(), tail=""):
    folder.mkdir(parents=True)
    lines = [line(step) for step in range(5)] if lines is None else lines
    (folder / "metrics.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in lines) + tail)
    (folder / "config.yaml").write_text(to_yaml(small_config(*overrides)))
    (folder / "environment.json").write_text(json.dumps({"commit": "abc123", "versions": {"torch": "2.11"}, "gpus": 0}))
    return folder


def titles(*folders):
    return [panel.title for panel in panels_of(read_runs(list(folders)))]


def test_two_runs_make_an_image_and_a_self_contained_page(tmp_path, capsys):
    lines = [line(step, samples_per_second=9.0, **{"monitor/knn_video": 0.5}) for step in range(100)]
    lines[50]["loss_v2a"] = float("nan")
    runs = [make_run(tmp_path / "a", lines), make_run(tmp_path / "b", overrides=["optim.lr=0.5"])]
    assert main([*map(str, runs), "--out", str(tmp_path / "new" / "report.html")]) == 0
    png, page = tmp_path / "new" / "report.png", tmp_path / "new" / "report.html"
    assert capsys.readouterr().out.split() == [str(png), str(page)]
    assert png.read_bytes().startswith(b"\x89PNG")
    data = data_of(page)
    assert data["runs"] == ["a", "b"]
    assert data["differing"] == {"optim.lr": ["0.01", "0.5"]}
    assert data["environment"]["commit"] == ["abc123", "abc123"]
    assert data["environment"]["versions.torch"] == ["2.11", "2.11"]


def test_untrusted_names_are_escaped_everywhere(tmp_path):
    run = make_run(tmp_path / "_<b>$x^$&", [line(0, **{"<script>alert(1)</script>": 1.0, "video/$^": 1.0})])
    assert main([str(run), "--out", str(tmp_path / "report")]) == 0
    text = (tmp_path / "report.html").read_text()
    assert "<script>alert" not in text
    assert "_&lt;b&gt;$x^$&amp;" in text
    data = data_of(tmp_path / "report.html")
    assert "<script>alert(1)</script>" in data["last"]
    assert data["runs"] == ["_<b>$x^$&"]


def test_missing_metrics_get_no_panel_and_unknown_sampler_metrics_get_one(tmp_path):
    run = make_run(tmp_path / "a", [line(0, **{"audio/share": 0.4, "video/missing": 0.0, "skipped_steps": 0.0})])
    assert titles(run) == ["InfoNCE loss", "Learning rate", "Sampler: share"]
    bad = make_run(tmp_path / "b", [line(0, skipped_steps=2.0)])
    assert "Steps skipped (not finite)" in titles(run, bad)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "is not a run folder: it holds no metrics.jsonl"),
        ("", "is empty: no step has been logged yet"),
        ('{"step": 3, "lo', "has no complete line of metrics"),
        ("[1, 2]\nnull\n{}\n", "has no complete line of metrics"),
        ("\x00\xff\n", "has no complete line of metrics"),
    ],
)
def test_a_run_without_metrics_is_a_one_line_error(tmp_path, capsys, content, message):
    if content is not None:
        (tmp_path / "metrics.jsonl").write_text(content, encoding="latin-1")
    assert main([str(tmp_path), "--out", str(tmp_path / "report")]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert str(tmp_path) in error
    assert not list(tmp_path.glob("report*"))


def test_broken_lines_are_counted_and_the_rest_is_shown(tmp_path, capsys):
    run = make_run(tmp_path / "a", tail='oops\n{"step": 9, "loss_v2a": 1.5}\n{"step": 10, "lo')
    (steps, values), *_ = [read_runs([run])[0].curves["loss_v2a"]]
    assert steps.tolist() == [0, 1, 2, 3, 4, 9]
    assert values[-1] == 1.5
    assert "2 broken line(s) ignored, the first is line 6" in capsys.readouterr().err
    cut_by_a_kill = make_run(tmp_path / "b", tail='{"step": 10, "lo')
    read_runs([cut_by_a_kill])
    assert not capsys.readouterr().err


def test_a_config_that_does_not_parse_is_ignored_with_a_warning(tmp_path, capsys):
    run = make_run(tmp_path / "a")
    (run / "config.yaml").write_text("a: [1")
    (run / "environment.json").write_text("{")
    assert read_runs([run])[0].config == {}
    error = capsys.readouterr().err
    assert f"ignored {run / 'config.yaml'}" in error
    assert f"ignored {run / 'environment.json'}" in error


def test_an_output_that_cannot_be_written_is_a_one_line_error(tmp_path, capsys):
    run = make_run(tmp_path / "a", [{"step": 0, "lr": 1.0}])
    (tmp_path / "file").write_text("")
    assert main([str(run), "--out", str(tmp_path / "file" / "report")]) == 2
    assert "cannot write the report" in capsys.readouterr().err


def test_runs_with_the_same_name_are_distinguished_by_their_paths(tmp_path):
    folders = [make_run(tmp_path / place / "run") for place in "ab"]
    assert [run.name for run in read_runs(folders)] == list(map(str, folders))
    assert [run.name for run in read_runs([folders[0] / "metrics.jsonl"])] == ["run"]
    with pytest.raises(ReportError):
        read_runs([tmp_path])


def test_smoothing_has_no_lag_keeps_the_length_and_ignores_non_finite_values():
    ramp = np.arange(200.0)
    assert smoothed(ramp)[20:-20] == pytest.approx(ramp[20:-20])
    ramp[100] = np.inf
    assert np.isfinite(smoothed(ramp)).all()
    assert smoothed(np.array([2.0, np.nan])).tolist()[0] == 2.0
    noise = np.random.default_rng(0).normal(size=3000)
    assert smoothed(noise).std() < 0.2


def test_every_run_has_its_own_colour():
    for count in (1, 7, 25):
        assert len(set(colours(count))) == count
