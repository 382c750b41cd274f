"""Stand-ins for the packages wandb, trackio and mlflow, which keep what they are sent."""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace
from typing import Any


@dataclass
class TrackedRun:
    """A run as a tracker knows it."""

    id: str
    name: str
    project: str
    config: dict[str, Any]
    lines: list[tuple[int, dict[str, float]]] = field(default_factory=list)
    finished: int = 0


class Service:
    """What all three packages send to; its runs persist as those of a server do."""

    def __init__(self) -> None:
        self.runs: dict[str, TrackedRun] = {}
        self.start_error: Exception | None = None
        self.log_error: Exception | None = None

    def start(self, id: str, name: str, project: str, config: dict[str, Any]) -> TrackedRun:
        if self.start_error is not None:
            raise self.start_error
        return self.runs.setdefault(id, TrackedRun(id, name, project, config))

    def log(self, run: TrackedRun, step: int, metrics: dict[str, float]) -> None:
        if self.log_error is not None:
            raise self.log_error
        run.lines.append((step, metrics))


def module(name: str, **contents: Any) -> ModuleType:
    """A module with these contents, as `import` finds it in sys.modules."""
    made = ModuleType(name)
    made.__spec__ = ModuleSpec(name, None)
    made.__dict__.update(contents)
    return made


def handle(service: Service, run: TrackedRun) -> SimpleNamespace:
    return SimpleNamespace(
        log=lambda metrics, step: service.log(run, step, metrics),
        finish=lambda: setattr(run, "finished", run.finished + 1),
    )


def fake_wandb(service: Service) -> ModuleType:
    def init(*, project, name, dir, id, resume, config):
        assert resume == "allow"
        return handle(service, service.start(id, name, project, config))

    return module("wandb", init=init)


def fake_trackio(service: Service) -> ModuleType:
    def init(*, project, name, resume, config, embed, auto_log_gpu, auto_log_cpu):
        assert resume == "allow"
        return handle(service, service.start(name, name, project, config))

    return module("trackio", init=init)


def fake_mlflow(service: Service) -> ModuleType:
    class MlflowClient:
        def create_run(self, experiment_id, run_name):
            run = service.start(f"id-{len(service.runs)}", run_name, experiment_id, {})
            return SimpleNamespace(info=SimpleNamespace(run_id=run.id))

        def log_batch(self, run_id, metrics=(), params=()):
            assert len(params) <= 100
            for key, value in params:
                assert service.runs[run_id].config.setdefault(key, value) == value, "MLflow refuses changes"
            if metrics:
                line = {key: value for key, value, _, _ in metrics}
                service.log(service.runs[run_id], metrics[0][3], line)

        def set_terminated(self, run_id):
            service.runs[run_id].finished += 1

        def update_run(self, run_id, status):
            assert status == "RUNNING"
            if service.start_error is not None:
                raise service.start_error
            assert run_id in service.runs

    return module(
        "mlflow",
        MlflowClient=MlflowClient,
        set_experiment=lambda name: SimpleNamespace(experiment_id=name),
        entities=SimpleNamespace(Metric=lambda *values: values, Param=lambda *values: values),
    )


FAKES = {"wandb": fake_wandb, "trackio": fake_trackio, "mlflow": fake_mlflow}
PROJECTS = {"wandb": "log.wandb_project", "trackio": "log.trackio_project", "mlflow": "log.mlflow_experiment"}
