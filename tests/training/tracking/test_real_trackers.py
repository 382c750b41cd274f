"""The trackers' own packages, offline, where they are installed: they hold what a run has sent."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
RUN = """
import sys
from pathlib import Path
from tests.training.small_run import small_config
from training.tracking.metrics import MetricsWriter
folder, key, start, *steps = sys.argv[1:]
writer = MetricsWriter(Path(folder), start_step=int(start), config=small_config(f"log.{key}=true"))
for step in map(int, steps):
    writer.write(step, {"loss": step / 2, "video/phi": float("nan")})
writer.close()
"""
"""A run of one process, because the packages keep global state and leave threads behind."""


def rows(database: Path, query: str) -> list[tuple]:
    with closing(sqlite3.connect(database)) as connection:
        return connection.execute(query).fetchall()


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Makes steps of the run in tmp_path/run, and returns what the processes said."""
    (tmp_path / "run").mkdir()
    for name, value in {
        "WANDB_MODE": "offline",
        "TRACKIO_DIR": str(tmp_path / "trackio"),
        "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/mlflow.db",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "PYTHONPATH": str(ROOT),
    }.items():
        monkeypatch.setenv(name, value)

    def start(*arguments: object) -> str:
        command = [sys.executable, "-c", RUN, tmp_path / "run", *map(str, arguments)]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr
        assert "failed" not in done.stderr
        return done.stdout + done.stderr

    return start


def test_mlflow_holds_each_line_once(run, tmp_path):
    pytest.importorskip("mlflow")
    run("mlflow", 0, 1, 2, 3)
    run("mlflow", 2, 3, 4)
    held = tmp_path / "mlflow.db"
    assert rows(held, "select name, status from runs") == [("run", "FINISHED")]
    points = rows(held, "select step, value from metrics where key = 'loss' order by step")
    assert points == [(1, 0.5), (2, 1.0), (3, 1.5), (4, 2.0)]
    assert rows(held, "select count(*) from metrics where key = 'video/phi' and is_nan") == [(4,)]
    assert rows(held, "select value from params where key = 'model.video'") == [("tiny",)]


def test_trackio_holds_each_line_once(run, tmp_path):
    pytest.importorskip("trackio")
    run("trackio", 0, 1, 2, 3)
    run("trackio", 2, 3, 4)
    held = tmp_path / "trackio" / "cm-acc.db"
    lines = [(step, json.loads(line)) for step, line in rows(held, "select step, metrics from metrics order by step")]
    assert lines == [(step, {"loss": step / 2, "video/phi": "NaN"}) for step in (1, 2, 3, 4)]
    ((name, config),) = rows(held, "select run_name, config from configs")
    assert name.startswith("run-")
    assert json.loads(config)["model"]["video"] == "tiny"


def test_wandb_offline_leaves_files_to_send_later(run, tmp_path):
    pytest.importorskip("wandb")
    run("wandb", 0, 1, 2, 3)
    run("wandb", 2, 3, 4)
    identifier = (tmp_path / "run" / "wandb_run_id").read_text()
    assert len(list((tmp_path / "run").glob(f"wandb/offline-run-*-{identifier}/*.wandb"))) == 2
