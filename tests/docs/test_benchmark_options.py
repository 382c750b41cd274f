"""Benchmarks refuse impossible arguments before any work, and figures that are not finite."""

from __future__ import annotations

import importlib
import json
import math
from pathlib import Path

import pytest
import torch

from benchmarks import decode, report, run_all
from benchmarks.tools.result import medians, publish, ratio, read
from common.finite import NotFiniteError


@pytest.mark.parametrize(
    ("name", "arguments", "said"),
    [
        ("run_all", ["--only", "decode", "no\x1bne"], r"--only no\x1bne is not known; allowed: sampling_38400x3840"),
        ("run_all", ["--only", "step_gpu"], "--only step_gpu needs a GPU; allowed: sampling_38400x3840, sampling_step"),
        ("sampling", ["--sizes", "4096x128", "12"], "12 is not ROWSxPICKS, integers with 1 <= PICKS <= ROWS"),
        ("sampling", ["--sizes", "10x20"], "10x20 is not ROWSxPICKS"),
        ("sampling", ["--backends", "best"], "invalid choice: 'best' (choose from"),
        ("sampling", ["--seeds", "0"], "must be an integer of at least 1, not 0"),
        ("sampling", ["--device", "cuda"], "torch finds no GPU that it can use; give cpu"),
        ("decode", ["--rows", "ours:tape"], "--rows ours:tape: not LOADER:STORAGE with a loader of decord"),
        ("decode", ["--rounds", "-1"], "must be an integer of at least 1, not -1"),
        ("decode_sweep", ["--clips", "x"], "must be an integer of at least 1, not x"),
        ("spectrogram", ["--device", "tpu"], "invalid choice: 'tpu' (choose from"),
        ("step", ["--rounds", "1"], "must be an integer of at least 2, not 1"),
        (
            "step",
            ["--against", "sampler.name=none"],
            "benchmarks.step: sampler.name='none' is not known; allowed: adaptive",
        ),
        ("checksums", ["--rounds", "1"], "must be an integer of at least 2, not 1"),
        ("checksums", ["data.path=/no such folder"], "benchmarks.checksums: /no such folder holds no manifest"),
        ("scaling", ["--processes", "0"], "must be an integer of at least 1, not 0"),
        ("scaling", ["train.batch=3"], "benchmarks.scaling: "),
        ("dataset_scaling", ["--data", "/no such folder"], "benchmarks.dataset_scaling: "),
        ("first_hour", ["--videos", "0"], "must be an integer of at least 1, not 0"),
        ("search", ["--rows", "9"], "must be an integer of at least 10000, not 9"),
        ("curate.__main__", ["--count", "9"], "must be an integer of at least 200, not 9"),
        ("curate.__main__", ["--run", "/no such folder"], "no checkpoint at /no such folder: give a run folder"),
        ("report", ["/no such folder"], "holds no result"),
    ],
)
def test_impossible_arguments_are_refused_at_once(capsys, monkeypatch, name, arguments, said) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    try:
        status = importlib.import_module(f"benchmarks.{name}").main(arguments)
    except SystemExit as error:
        status = error.code
    error = capsys.readouterr().err
    assert said in error
    assert status == 2
    assert "Traceback" not in error


def test_results_and_ratios_that_are_not_finite_are_refused_by_name(tmp_path: Path, capsys) -> None:
    result = {"records": [{"seconds": 1.0}, {"seconds": math.nan}]}
    with pytest.raises(NotFiniteError, match=r"the figures of the result are not finite for records\.1\.seconds$"):
        publish(result, tmp_path / "out.json")
    assert not capsys.readouterr().out
    assert not any(tmp_path.iterdir())
    with pytest.raises(NotFiniteError, match="the values of speed are not finite for run 2"):
        medians([{"speed": 1.0}, {"speed": math.inf}])
    with pytest.raises(NotFiniteError, match=r"the speed is not finite: 1\.0 divided by 0\.0"):
        ratio(1.0, 0.0, "the speed")
    with pytest.raises(NotFiniteError, match="the speed is not finite"):
        ratio(math.nan, 1.0, "the speed")
    (tmp_path / "nan.json").write_text(json.dumps(result))
    with pytest.raises(NotFiniteError, match=r"nan\.json are not finite for records\.1\.seconds"):
        read(tmp_path / "nan.json")


def test_a_row_whose_figures_are_not_finite_fails_and_the_others_continue(monkeypatch) -> None:
    def measure(command: list[str], **options: object) -> object:
        speed = math.nan if "pyav" in command else 2.0
        return decode.subprocess.CompletedProcess(command, 0, stdout=json.dumps({"clips_per_second": speed}), stderr="")

    monkeypatch.setattr(decode.subprocess, "run", measure)
    rows = [("pyav", "h264_256"), ("ours", "shards_vp9_144")]
    (found,) = decode.all_rows(rows, options=decode.parse(["--rounds", "1"]))
    assert found[0]["failed"] == "pyav on h264_256: the figures are not finite for clips_per_second"
    assert found[1]["clips_per_second"] == 2.0


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "step.json is not a result of a benchmark: Expecting property name"),
        ("[1]", "step.json is not a result of a benchmark: it holds no JSON object"),
        ("{}", "step.json does not hold what the table step shows: KeyError('parts')"),
        ('{"parts": {"whole step": 0.0}}', "step.json does not hold what the table step shows: ZeroDivisionError"),
        ('{"parts": {"whole step": "fast"}}', "step.json does not hold what the table step shows: TypeError"),
        ('{"parts": {"whole step": 1, "loss": "fast"}}', "step.json does not hold what the table step shows"),
        ('{"parts": {"whole step": 1' + "0" * 400 + "}}", "step.json are not finite for parts.whole step"),
    ],
    ids=["broken", "list", "empty", "zero", "text", "text beside", "huge"],
)
def test_a_broken_result_leaves_the_documents_as_they_are(tmp_path: Path, capsys, monkeypatch, text, said) -> None:
    (tmp_path / "step.json").write_text(text)
    (tmp_path / "README.md").write_text("<!-- table step -->\n| old |\n<!-- end -->")
    monkeypatch.setattr(report, "ROOT", tmp_path)
    monkeypatch.setattr(report, "DOCUMENTS", ("README.md",))
    assert report.main([str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert "| old |" in (tmp_path / "README.md").read_text()


def test_one_failed_benchmark_does_not_stop_the_others(tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.setattr(run_all.subprocess, "run", lambda line, **_: run_all.subprocess.CompletedProcess(line, 1))
    assert run_all.main(["--out", str(tmp_path), "--only", "scaling", "spectrogram"]) == 1
    assert "failed: spectrogram, scaling" in capsys.readouterr().err
