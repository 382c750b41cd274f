"""Weights & Biases next to metrics.jsonl: used only if configured, and its failures do not stop a run."""

from __future__ import annotations

import json
import sys
import types

import pytest

from settings import ConfigError
from tests.training.small_run import small_config
from training.tracking.metrics import MetricsWriter, read_metrics


class FakeRun:
    def __init__(self, **settings):
        self.settings, self.lines, self.finished = settings, [], False

    def log(self, metrics, step):
        if metrics.get("loss") == "offline":
            raise ConnectionError("the service is gone")
        self.lines.append((step, metrics))

    def finish(self):
        self.finished = True


@pytest.fixture
def runs(monkeypatch):
    """The runs started with a stand-in for the package."""
    started = []

    def init(**settings):
        started.append(FakeRun(**settings))
        return started[-1]

    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(init=init))
    return started


def test_without_the_package_the_error_says_what_to_install_and_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ConfigError, match="pip install wandb"):
        MetricsWriter(tmp_path, start_step=0, config=small_config("log.wandb=true"))
    assert not list(tmp_path.iterdir())


def test_wandb_is_not_imported_unless_configured(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    MetricsWriter(tmp_path, start_step=0, config=small_config()).close()


def test_a_resumed_run_continues_the_same_wandb_run(tmp_path, runs):
    config = small_config("log.wandb=true", "log.wandb_project=other", "seed=7")
    for start in (0, 2):
        writer = MetricsWriter(tmp_path, start_step=start, config=config)
        writer.write(start, {"loss": 1.0})
        writer.close()
    first, second = runs
    assert first.settings["id"] == second.settings["id"]
    assert first.settings["project"] == "other"
    assert first.settings["config"]["seed"] == 7
    assert first.lines == [(0, {"loss": 1.0})]
    assert first.finished
    assert second.finished


def test_a_failing_service_is_logged_once_and_the_run_continues(tmp_path, runs, caplog):
    writer = MetricsWriter(tmp_path, start_step=0, config=small_config("log.wandb=true"))
    wandb = writer._wandb
    for step in range(2):
        wandb.write(step, {"loss": "offline"})
    assert caplog.text.count("the service is gone") == 1
    writer.write(3, {"loss": 0.5})
    writer.close()
    assert read_metrics(tmp_path / "metrics.jsonl") == [{"step": 3, "loss": 0.5}]


def test_a_wandb_that_does_not_start_is_a_config_error(tmp_path, monkeypatch):
    def init(**settings):
        raise RuntimeError("No API key configured.")

    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(init=init))
    with pytest.raises(ConfigError, match=r"No API key configured.*WANDB_MODE=offline"):
        MetricsWriter(tmp_path, start_step=0, config=small_config("log.wandb=true"))


def test_metrics_are_in_the_file_when_write_returns(tmp_path):
    writer = MetricsWriter(tmp_path, start_step=0)
    writer.write(0, {"loss": 2.0})
    assert json.loads((tmp_path / "metrics.jsonl").read_text()) == {"step": 0, "loss": 2.0}
    writer.close()
