"""Trackers next to metrics.jsonl: used only if configured, in a thread, and their failures do not stop a run."""

from __future__ import annotations

import json
import math
import re
import sys
import threading
from dataclasses import replace

import pytest

from settings import ConfigError
from tests.training.small_run import small_config
from tests.training.tracking.fake_trackers import FAKES, PROJECTS, Service
from training.options import check_names
from training.saving.folder import require_new
from training.tracking import sink, trackers
from training.tracking.metrics import MetricsWriter, read_metrics
from training.tracking.trackers import TRACKERS


@pytest.fixture(params=sorted(TRACKERS))
def key(request):
    return request.param


@pytest.fixture
def service(key, monkeypatch):
    """What a stand-in for the package sends to."""
    made = Service()
    monkeypatch.setitem(sys.modules, TRACKERS[key].package, FAKES[key](made))
    return made


def write(folder, config, *, start=0, steps=(), numbers=None):
    writer = MetricsWriter(folder, start_step=start, config=config)
    for step in steps:
        writer.write(step, numbers or {"loss": float(step)})
    writer.close()


def test_every_tracker_has_a_stand_in():
    assert FAKES.keys() == TRACKERS.keys() == PROJECTS.keys()


def test_without_the_package_the_error_says_what_to_install_and_nothing_is_written(key, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, TRACKERS[key].package, None)
    config = small_config(f"log.{key}=true")
    for start in (lambda: MetricsWriter(tmp_path, start_step=0, config=config), lambda: check_names(config)):
        with pytest.raises(ConfigError, match=rf"pip install .*requirements-{key}\.txt, or set log\.{key}=false"):
            start()
    assert not list(tmp_path.iterdir())


def test_no_tracker_is_imported_unless_configured(key, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, TRACKERS[key].package, None)
    check_names(small_config())
    write(tmp_path, small_config())


def test_a_resumed_run_continues_the_same_run_and_sends_no_step_twice(key, service, tmp_path):
    config = small_config(f"log.{key}=true", f"{PROJECTS[key]}=other", "seed=7")
    write(tmp_path, config, steps=(1, 2, 3))
    # The last checkpoint was that of step 2; a setting that may change has changed.
    write(tmp_path, replace(config, train=replace(config.train, threads=2)), start=2, steps=(3, 4))
    (run,) = service.runs.values()
    assert run.lines == [(step, {"loss": float(step)}) for step in (1, 2, 3, 4)]
    assert run.project == "other"
    assert run.name.startswith(tmp_path.name)
    assert str(run.config["seed"]) == "7"
    assert run.finished == 2
    assert [line["step"] for line in read_metrics(tmp_path / "metrics.jsonl")] == [1, 2, 3, 4]


def test_two_folders_of_one_name_are_two_runs(key, service, tmp_path):
    for parent in ("a", "b"):
        folder = tmp_path / parent / "same"
        folder.mkdir(parents=True)
        write(folder, small_config(f"log.{key}=true"), steps=(1,))
    assert [run.lines for run in service.runs.values()] == [[(1, {"loss": 1.0})]] * 2


def test_lines_about_one_step_and_values_that_are_not_finite_arrive(key, service, tmp_path):
    writer = MetricsWriter(tmp_path, start_step=0, config=small_config(f"log.{key}=true"))
    writer.write(1, {"loss": math.inf})
    writer.write(1, {"video/phi": 0.5})
    writer.close()
    (run,) = service.runs.values()
    assert run.lines == [(1, {"loss": math.inf}), (1, {"video/phi": 0.5})]


def test_a_failing_service_is_one_warning_and_the_run_continues(key, service, tmp_path, caplog):
    service.log_error = ConnectionError("the service is gone")
    write(tmp_path, small_config(f"log.{key}=true"), steps=range(1, 20))
    assert caplog.text.count("the service is gone") == 1
    assert len(caplog.records) == 1
    assert len(read_metrics(tmp_path / "metrics.jsonl")) == 19


def test_a_tracker_that_does_not_start_ends_a_new_run_with_advice(key, service, tmp_path):
    service.start_error = RuntimeError("No API key configured.")
    advice = re.escape(TRACKERS[key].advice)
    with pytest.raises(ConfigError, match=rf"No API key configured.*{advice}, or set log\.{key}=false"):
        MetricsWriter(tmp_path, start_step=0, config=small_config(f"log.{key}=true"))
    require_new(tmp_path)  # so that the same command may be given again
    service.start_error = None
    write(tmp_path, small_config(f"log.{key}=true"), steps=(1,))
    assert [run.lines for run in service.runs.values()] == [[(1, {"loss": 1.0})]]
    with pytest.raises(ConfigError, match="already holds a run"):
        require_new(tmp_path)


def test_a_tracker_that_does_not_start_does_not_end_a_run_that_has_made_steps(key, service, tmp_path, caplog):
    config = small_config(f"log.{key}=true")
    write(tmp_path, config, steps=(1, 2))
    service.start_error = RuntimeError("the network is down")
    write(tmp_path, config, start=2, steps=(3,))
    assert caplog.text.count("the network is down") == 1
    assert [line["step"] for line in read_metrics(tmp_path / "metrics.jsonl")] == [1, 2, 3]


def test_the_settings_must_name_a_project(key):
    with pytest.raises(ConfigError, match=rf"log\.{key}=true needs a name in {PROJECTS[key]}"):
        small_config(f"log.{key}=true", f"{PROJECTS[key]}=''")


class Hanging:
    """A tracker that takes no line until it is released."""

    released: threading.Event

    def __init__(self, run_dir, config):
        self.waits_for = self.released

    def log(self, step, metrics):
        self.waits_for.wait()

    def finish(self):
        pass


@pytest.fixture
def hanging(monkeypatch):
    kind = replace(TRACKERS["wandb"], package="json", start=Hanging)
    monkeypatch.setattr(trackers, "TRACKERS", {"wandb": kind})
    monkeypatch.setattr(sink, "CLOSE_SECONDS", 0.1)
    monkeypatch.setattr(Hanging, "released", threading.Event(), raising=False)
    yield
    Hanging.released.set()


def test_a_tracker_that_hangs_neither_blocks_the_steps_nor_the_end(hanging, tmp_path, caplog):
    write(tmp_path, small_config("log.wandb=true"), steps=range(1, 10))
    assert len(read_metrics(tmp_path / "metrics.jsonl")) == 9
    assert [record.getMessage() for record in caplog.records] == [
        "Weights & Biases failed (it did not take the last lines in 0 s); the run continues, and metrics.jsonl has all "
        "numbers"
    ]


def test_lines_do_not_fill_the_memory_while_a_tracker_hangs(hanging, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(sink, "MOST_WAITING", 3)
    write(tmp_path, small_config("log.wandb=true"), steps=range(1, 10))
    assert "3 lines are waiting" in caplog.text
    assert len(caplog.records) == 1


def test_a_tracker_that_never_starts_ends_a_new_run(tmp_path, monkeypatch):
    released = threading.Event()
    kind = replace(TRACKERS["mlflow"], package="json", start=lambda run_dir, config: released.wait())
    monkeypatch.setattr(trackers, "TRACKERS", {"mlflow": kind})
    monkeypatch.setattr(sink, "START_SECONDS", 0.1)
    with pytest.raises(ConfigError, match="MLflow did not start"):
        MetricsWriter(tmp_path, start_step=0, config=small_config("log.mlflow=true"))
    released.set()


def test_metrics_are_in_the_file_when_write_returns(tmp_path):
    writer = MetricsWriter(tmp_path, start_step=0)
    writer.write(0, {"loss": 2.0})
    assert json.loads((tmp_path / "metrics.jsonl").read_text()) == {"step": 0, "loss": 2.0}
    writer.close()
