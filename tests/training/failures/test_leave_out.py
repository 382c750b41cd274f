"""Training without the samples of a list: what is said, and how such a run resumes."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

import train
from common import phases
from tests.training import kill_and_resume as kills
from tests.training.small_run import OVERRIDES
from training.checkpoint import find, read

SMALL = [*OVERRIDES, "train.steps=4", "checkpoint.every_steps=2", "data.threads=1", "train.threads=1"]


@pytest.fixture
def run_main(monkeypatch, demo_shards):
    def run(*arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", ["train.py", *SMALL, f"data.path={demo_shards}", *arguments])
        return train.main()

    return run


def test_a_run_resumes_only_with_a_list_of_the_same_sources(run_main, tmp_path: Path, capsys):
    lists = {"first": "00003.mp4\n00007.mp4\n", "moved": "reason,source\nx,00007.mp4\ny,00003.mp4\n"}
    lists |= {"other": "00003.mp4\n", "unknown": "00003.mp4\nnone.mp4\n"}
    for name, text in lists.items():
        (tmp_path / name).write_text(text)
    phases.open_log("train.py")
    try:
        assert run_main(f"run_dir={tmp_path / 'whole'}", f"data.leave_out={tmp_path / 'first'}") == 0
    finally:
        phases.close_log()
    assert re.search(r"first leaves out 2 samples; training on the other 28\n", capsys.readouterr().err)
    assert read(find(tmp_path / "whole"))["samples"] == 28

    resumed = [f"run_dir={tmp_path / 'resumed'}", "--resume", "auto"]
    assert run_main(*resumed, f"data.leave_out={tmp_path / 'first'}") == 0
    for path in (tmp_path / "resumed" / "checkpoints").glob("step-000000004.*"):
        path.unlink()
    for name, message in (
        ("other", r"was trained on other samples: the list data.leave_out has changed, .*; 28 samples then, 29 now"),
        ("unknown", r"unknown leaves out samples that .*shards does not have: 'none.mp4'; remove"),
        ("missing", "cannot read the list of samples to leave out, "),
    ):
        assert run_main(*resumed, f"data.leave_out={tmp_path / name}") == 2
        assert re.search(message, capsys.readouterr().err)
    assert run_main(*resumed) == 2
    assert "the list data.leave_out has changed, which now is empty; 28 samples" in capsys.readouterr().err
    (tmp_path / "moved").replace(tmp_path / "first")  # the same sources in another form
    assert run_main(*resumed, f"data.leave_out={tmp_path / 'first'}") == 0
    assert kills.differences(tmp_path / "whole", tmp_path / "resumed") == []
