"""Runs the tasks of preparation on the nodes of a Ray cluster, in worker processes, as on a single machine.

A decoder that crashes, hangs or exhausts its memory must not harm Ray's own process on the node, so Ray's process hands
each task to a `WorkerPool` of one worker, which it keeps for later tasks. The worker ends with Ray's process.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

from common.cluster.engine import ClusterError, RayEngine
from common.cluster.shared import NotShared, SharedFolder, require_shared
from common.cluster.tasks import Outcome, TaskDied, run_on_ray
from common.files import write_atomically
from pipeline.media.rejection import RejectedSource
from pipeline.prepare.workers.pool import WorkerPool, WorkersCannotStart, classify_failure, worker_pool

Task = TypeVar("Task")
_pools: dict[int, WorkerPool] = {}
"""On a node: the pools of this process by their memory limit in MiB, each made by the first task with that limit."""


def run_tasks_on_ray(
    function: Callable[[Task], Any],
    tasks: Iterable[Task],
    *,
    engine: RayEngine,
    timeout_seconds: float,
    memory_mb: int,
    shared: tuple[SharedFolder, ...],
    carry: bool = False,
) -> Generator[tuple[Task, BaseException | None], None, None]:
    """Calls `function` on each task in a worker process on some node; see `run_tasks`, which does so on this machine.

    Args:
        shared: folders that every node must see.
        carry: whether to send back the content of `task.fragment`, the file that `function` writes, because the nodes
            do not see its folder: a node then writes it to a temporary folder, and this process writes the file.

    Yields:
        (task, error), as `run_tasks`.

    Raises:
        ClusterError: the cluster cannot be used, or a node does not see a shared folder.
        WorkersCannotStart: a node cannot start a worker process.
    """
    work = partial(
        _in_worker,
        function=function,
        timeout_seconds=timeout_seconds,
        memory_mb=memory_mb,
        shared=shared,
        carry=carry,
    )
    for task, outcome in run_on_ray(work, tasks, engine=engine):
        if carry and outcome.error is None:
            write_atomically(task.fragment, outcome.value, durable=True)  # type: ignore[attr-defined]
        yield task, _failure(outcome, timeout_seconds, memory_mb)


def _failure(outcome: Outcome, timeout_seconds: float, memory_mb: int) -> BaseException | None:
    error = outcome.error
    if isinstance(error, NotShared):
        raise ClusterError(f"node {outcome.node} {error}")
    if isinstance(error, WorkersCannotStart):
        raise WorkersCannotStart(f"node {outcome.node}: {error}")
    if isinstance(error, TaskDied):
        said = f"{error}, each time"
        return RejectedSource("out of memory", said) if error.out_of_memory else RejectedSource("decoder crashed", said)
    return classify_failure(error, timeout_seconds, memory_mb)


def _in_worker(
    task: Any,
    *,
    function: Callable[[Any], Any],
    timeout_seconds: float,
    memory_mb: int,
    shared: tuple[SharedFolder, ...],
    carry: bool,
) -> bytes | None:
    """Runs a task on a node; returns the content of the file that it wrote if `carry` is set, and else None."""
    for one in shared:
        require_shared(one)
    if memory_mb not in _pools:
        _pools[memory_mb] = worker_pool(1, memory_mb=memory_mb)
    with TemporaryDirectory() if carry else nullcontext() as folder:
        if folder is not None:
            task = replace(task, fragment=Path(folder) / task.fragment.name)
        _pools[memory_mb].schedule(function, args=(task,), timeout=timeout_seconds).result()
        return task.fragment.read_bytes() if carry else None
