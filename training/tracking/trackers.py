"""The trackers that a run may send its metrics to: Weights & Biases, trackio and MLflow."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any
from uuid import uuid4

from common.files import write_atomically
from common.trees import flatten
from settings import Config, to_dict
from training.tracking.sink import Sink, TrackerKind, require_package

MLFLOW_PARAMS = 100
"""Largest number of parameters that MLflow takes in one request."""
MLFLOW_CHARACTERS = 6000
"""Largest length of a parameter that MLflow takes."""


class _WandbRun:
    """A run behind the interface of wandb, which trackio has too."""

    _run: Any

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        self._run.log(dict(metrics), step=step)

    def finish(self) -> None:
        self._run.finish()


class Wandb(_WandbRun):
    """A run of Weights & Biases, which sends from its own process; its files are in the run folder."""

    def __init__(self, run_dir: Path, config: Config) -> None:
        import wandb

        self._run = wandb.init(
            project=config.log.wandb_project,
            name=run_dir.name,
            dir=str(run_dir),
            id=_own_id(run_dir, "wandb"),
            resume="allow",
            config=to_dict(config),
        )


class Trackio(_WandbRun):
    """A run of trackio, which writes to a database in TRACKIO_DIR, or to a Space or server that its variables name."""

    def __init__(self, run_dir: Path, config: Config) -> None:
        import trackio

        self._run = trackio.init(
            project=config.log.trackio_project,
            # trackio finds a run that it continues by this name, which must differ from that of any other folder.
            name=f"{run_dir.name}-{_own_id(run_dir, 'trackio')[:8]}",
            resume="allow",
            config=to_dict(config),
            embed=False,
            auto_log_gpu=False,
            auto_log_cpu=False,
        )


class Mlflow:
    """A run of MLflow, on the server or in the database that MLFLOW_TRACKING_URI names."""

    def __init__(self, run_dir: Path, config: Config) -> None:
        import mlflow

        self._client: Any = mlflow.MlflowClient()
        id_path = run_dir / "mlflow_run_id"
        if id_path.exists():
            self._id = id_path.read_text().strip()
            self._client.update_run(self._id, status="RUNNING")
            return
        experiment = mlflow.set_experiment(config.log.mlflow_experiment)
        self._id = self._client.create_run(experiment.experiment_id, run_name=run_dir.name).info.run_id
        write_atomically(id_path, self._id)
        # Only once: MLflow refuses parameters that change, and some settings may change when a run is resumed.
        items = iter(flatten(to_dict(config)).items())
        while some := list(islice(items, MLFLOW_PARAMS)):
            params = [mlflow.entities.Param(key, str(value)[:MLFLOW_CHARACTERS]) for key, value in some]
            self._client.log_batch(self._id, params=params)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        import mlflow

        now = int(time.time() * 1000)
        values = [mlflow.entities.Metric(name, float(value), now, step) for name, value in metrics.items()]
        self._client.log_batch(self._id, metrics=values)

    def finish(self) -> None:
        self._client.set_terminated(self._id)


TRACKERS = {
    "wandb": TrackerKind(
        title="Weights & Biases",
        package="wandb",
        install="-r requirements-wandb.txt",
        advice="run `wandb login`, set WANDB_MODE=offline to send the numbers later",
        start=Wandb,
    ),
    "trackio": TrackerKind(
        title="trackio",
        package="trackio",
        install="--no-deps -r requirements-trackio.txt",
        advice="check TRACKIO_DIR, TRACKIO_SPACE_ID and TRACKIO_SERVER_URL",
        start=Trackio,
    ),
    "mlflow": TrackerKind(
        title="MLflow",
        package="mlflow",
        install="-r requirements-mlflow.txt",
        advice="check MLFLOW_TRACKING_URI, which is a server or a database such as sqlite:///mlflow.db",
        start=Mlflow,
    ),
}
"""Maps each key in `log` that asks for a tracker to the tracker."""


def require_trackers(config: Config) -> None:
    """Raises ConfigError if the package of a tracker that the settings ask for is not installed."""
    for key in _wanted(config):
        require_package(key, TRACKERS[key])


def start_sinks(run_dir: Path, config: Config, *, already_sent: int, resumed: bool) -> list[Sink]:
    """Starts the trackers that the settings ask for; see `Sink`.

    Raises:
        ConfigError: a package is missing, or the tracker of a new run does not start.
    """
    return [
        Sink(key, TRACKERS[key], run_dir, config, already_sent=already_sent, resumed=resumed) for key in _wanted(config)
    ]


def _wanted(config: Config) -> Iterator[str]:
    return (key for key in TRACKERS if getattr(config.log, key))


def _own_id(run_dir: Path, key: str) -> str:
    """The id of this run folder in a tracker, which the first call chooses."""
    path = run_dir / f"{key}_run_id"
    if not path.exists():
        write_atomically(path, uuid4().hex)
    return path.read_text().strip()
