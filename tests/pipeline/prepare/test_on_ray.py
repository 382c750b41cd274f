"""What becomes of a task whose processes or nodes die on a cluster, without a cluster."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from common.cluster.engine import RayEngine
from common.cluster.tasks import Outcome, TaskDied
from pipeline.prepare.workers import on_ray
from pipeline.prepare.workers.pool import WorkersCannotStart


@pytest.fixture
def outcome(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Returns what becomes of a task that ends with an error on the node `n1`."""

    def failed(error: Exception) -> BaseException | None:
        def run(function: Any, tasks: list[str], **_: Any) -> Iterator[tuple[str, Outcome]]:
            yield tasks[0], Outcome("n1", None, error)

        monkeypatch.setattr(on_ray, "run_on_ray", run)
        limits: dict[str, Any] = {"timeout_seconds": 5.0, "memory_mb": 512, "shared": ()}
        ((task, found),) = on_ray.run_tasks_on_ray(len, ["task"], engine=RayEngine(), **limits)
        assert task == "task"
        return found

    return failed


def test_a_lack_of_memory_of_the_node_is_a_rejection(outcome):
    error = outcome(TaskDied("Ray ended its process because the node ran out of memory", out_of_memory=True))
    said = "out of memory: Ray ended its process because the node ran out of memory, each time"
    assert str(error) == said


def test_nodes_that_die_are_a_rejection(outcome):
    assert str(outcome(TaskDied("its node died"))) == "decoder crashed: its node died, each time"


def test_limits_of_the_worker_are_rejections_as_on_one_machine(outcome):
    assert str(outcome(MemoryError())) == "out of memory: needs more than memory_mb=512"
    assert str(outcome(TimeoutError())) == "timed out: took longer than timeout_seconds=5"


def test_a_node_without_processes_ends_the_run_and_is_named(outcome):
    with pytest.raises(WorkersCannotStart, match=r"^node n1: no process$"):
        outcome(WorkersCannotStart("no process"))
