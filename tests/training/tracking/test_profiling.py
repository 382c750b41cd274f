"""--profile writes a trace of the requested steps and does not change the run."""

from __future__ import annotations

import gzip
import json

import pytest
import torch

from settings import ConfigError
from tests.training.small_run import new_learner, random_batch
from training.options import parse_steps
from training.tracking.profiling import StepProfiler


def train(config, profiler, steps=4):
    learner = new_learner(config)
    learner.fill((random_batch(config, -n) for n in range(1, 7)), epoch=0)
    with profiler:
        for step in range(steps):
            profiler.step(step + 1)
            learner.step(random_batch(config, step), step)
    return learner


def events_of(path):
    with gzip.open(path, "rt") as file:
        return {event["name"] for event in json.load(file)["traceEvents"]}


def test_the_requested_steps_are_in_the_trace_and_the_weights_do_not_change(tmp_path, config):
    profiled = train(config, StepProfiler(tmp_path, range(1, 3)))
    plain = train(config, StepProfiler(tmp_path / "plain", range(0)))
    names = events_of(tmp_path / "profile" / "steps-1-3-rank0.json.gz")
    assert {"step 1", "step 2"} <= names
    assert not {"step 0", "step 3"} & names
    assert any("convolution" in name for name in names)
    table = (tmp_path / "profile" / "steps-1-3-rank0.txt").read_text()
    assert "aten::" in table
    assert "Self CPU time total" in table
    assert not (tmp_path / "plain").exists()
    for name, value in plain.model.state_dict().items():
        assert torch.equal(value, profiled.model.state_dict()[name]), name


def test_a_run_that_ends_early_still_writes_its_trace(tmp_path, config):
    train(config, StepProfiler(tmp_path, range(1, 100), rank=3), steps=2)
    assert "step 1" in events_of(tmp_path / "profile" / "steps-1-100-rank3.json.gz")


def test_the_end_of_an_epoch_is_not_counted_as_a_step(tmp_path):
    with StepProfiler(tmp_path, range(3, 4)) as profiler:
        for number in (1, 2, 2, 3, 3, 4):
            profiler.step(number)
            torch.ones(number).sum()
    assert events_of(tmp_path / "profile" / "steps-3-4-rank0.json.gz") >= {"step 3"}


def test_a_run_that_ends_before_the_steps_logs_a_warning(tmp_path, caplog):
    with StepProfiler(tmp_path, range(5, 6)) as profiler:
        profiler.step(1)
    assert "the run ended after 1 steps" in caplog.text
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_does_not_stop_the_run(tmp_path, caplog):
    (tmp_path / "profile").write_text("in the way")
    with StepProfiler(tmp_path, range(1, 2)) as profiler:
        profiler.step(1)
        torch.ones(3).sum()
    assert "could not write" in caplog.text


@pytest.mark.parametrize("text", ["", "3", "5:5", "9:2", "-1:4", "0:4", "a:b", "1:2:3"])
def test_an_invalid_range_of_steps_is_explained(text):
    with pytest.raises(ConfigError, match="FIRST:LAST"):
        parse_steps(text)


def test_steps_are_read_as_a_half_open_range():
    assert parse_steps("10:15") == range(10, 15)
    assert len(parse_steps(None)) == 0
