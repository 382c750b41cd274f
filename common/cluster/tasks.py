"""Runs tasks on a Ray cluster. A task whose node or worker dies is run again on another one; no other task is affected.

This module repeats such tasks, not Ray (`max_retries=0`), because it must count how often each task's worker died, and
so that the number of submitted tasks follows the nodes as they join and leave.
"""

from __future__ import annotations

import itertools
import math
import socket
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Any, NamedTuple, TypeVar

from common.cluster.connect import connected, last_line
from common.cluster.engine import ClusterError, RayEngine
from common.phases import begin

Task = TypeVar("Task")
_TASKS_AHEAD = 3
"""Number of submitted tasks per slot of the cluster: enough to keep it busy, few enough for a quick interruption."""
_MAX_DEATHS = 4
"""A task fails when this many of the workers or nodes that ran it have died."""
_POLL_SECONDS = 5.0
"""Interval in seconds at which the nodes of the cluster are counted."""
_NO_SLOT_SECONDS = 900.0
"""Time in seconds to wait for a node that is large enough for a task, if the cluster has none."""


class TaskDied(Exception):
    """The worker or node of a task died at each attempt; the message says how the last one did.

    Attributes:
        out_of_memory: whether Ray killed the last worker because its node ran out of memory.
    """

    def __init__(self, text: str, *, out_of_memory: bool = False) -> None:
        super().__init__(text)
        self.out_of_memory = out_of_memory


class Outcome(NamedTuple):
    """What a task has returned or raised, and where."""

    node: str
    """Name and address of the node; empty if the task died."""
    value: Any
    error: BaseException | None


def run_on_ray(
    function: Callable[[Task], Any], tasks: Iterable[Task], *, engine: RayEngine, gpus: int = 0
) -> Generator[tuple[Task, Outcome], None, None]:
    """Calls `function` (importable and picklable) on each task, somewhere in the cluster.

    A task may be called again if its node dies, even after it has done its work, so `function` must be idempotent.

    Args:
        gpus: number of GPUs that a task occupies.

    Yields:
        (task, outcome) as the tasks end, in any order. The error is a TaskDied if the task's worker died at
        each attempt.

    Raises:
        ClusterError: the cluster cannot be reached, or has no node that is large enough for a task.
    """
    waiting = iter(tasks)
    first = next(waiting, None)
    if first is None:
        return
    with connected(engine.address):
        yield from _Scheduler(function, engine, gpus).run(itertools.chain([first], waiting))


class _Scheduler:
    """Keeps a limited number of tasks submitted, and repeats those whose worker died. A slot is room for one task."""

    def __init__(self, function: Callable[[Any], Any], engine: RayEngine, gpus: int) -> None:
        import ray

        self._ray = ray
        self._function, self._engine, self._gpus = function, engine, gpus
        self._cpus = engine.cpus or 1
        # With max_calls=0 Ray keeps its processes, and what they hold, for later tasks, also those that use a GPU.
        needs: dict[str, Any] = {"num_cpus": self._cpus, "max_retries": 0, "max_calls": 0}
        if engine.memory_mb:
            needs["memory"] = engine.memory_mb * 2**20
        if gpus:
            needs["num_gpus"] = gpus
        self._call = ray.remote(**needs)(call)
        self._running: dict[Any, tuple[Any, int]] = {}
        self._repeated: list[tuple[Any, int]] = []
        self._slots, self._counted_at = 0, -math.inf
        self._no_slot_since: float | None = None

    def run(self, tasks: Iterator[Any]) -> Generator[tuple[Any, Outcome], None, None]:
        while True:
            self._count_slots()
            while len(self._running) < self._limit() and (entry := self._next(tasks)) is not None:
                self._start(*entry)
            if not self._running:
                return
            for task, outcome, deaths in self._ended():
                if isinstance(outcome.error, TaskDied) and deaths < _MAX_DEATHS:
                    self._repeated.append((task, deaths))
                else:
                    yield task, outcome

    def _limit(self) -> int:
        """How many tasks may be submitted at the same time."""
        limit = _TASKS_AHEAD * max(1, self._slots)
        return limit if self._engine.most is None else min(limit, self._engine.most)

    def _next(self, tasks: Iterator[Any]) -> tuple[Any, int] | None:
        """The next task and its number of deaths; None if there is none."""
        if self._repeated:
            return self._repeated.pop(0)
        task = next(tasks, None)
        return None if task is None else (task, 0)

    def _start(self, task: Any, deaths: int) -> None:
        self._running[self._call.remote(self._function, task)] = task, deaths

    def _ended(self) -> Iterator[tuple[Any, Outcome, int]]:
        """Waits at most _POLL_SECONDS for tasks to end; yields each with its outcome and its number of deaths."""
        wait, references = self._ray.wait, list(self._running)
        if not wait(references, num_returns=1, timeout=_POLL_SECONDS)[0]:
            return
        for reference in wait(references, num_returns=len(references), timeout=0)[0]:
            task, deaths = self._running.pop(reference)
            outcome = self._outcome(reference)
            yield task, outcome, deaths + isinstance(outcome.error, TaskDied)

    def _outcome(self, reference: Any) -> Outcome:
        from ray import exceptions

        try:
            return Outcome(*self._ray.get(reference))
        except exceptions.LocalRayletDiedError:
            raise ClusterError("Ray on this machine has ended; run the same command again") from None
        except exceptions.OutOfMemoryError:
            error = TaskDied("Ray ended its process because the node ran out of memory", out_of_memory=True)
            return Outcome("", None, error)
        except (exceptions.WorkerCrashedError, exceptions.NodeDiedError, exceptions.ObjectLostError):
            return Outcome("", None, TaskDied("its node died, or Ray's process on the node"))
        except exceptions.RayError as failure:
            # The task's own errors are in its outcome, so this one means that the node cannot run tasks at all.
            raise ClusterError(f"a node of the cluster cannot run tasks: {last_line(failure)}") from None

    def _count_slots(self) -> None:
        """Counts the slots of the cluster every _POLL_SECONDS, because nodes may have joined or left."""
        if time.monotonic() - self._counted_at < _POLL_SECONDS:
            return
        self._counted_at = time.monotonic()
        self._slots = sum(map(self._slots_of, self._ray.nodes()))
        if self._slots:
            self._no_slot_since = None
            return
        self._no_slot_since = self._no_slot_since or self._counted_at
        needs = "1 core" if self._cpus == 1 else f"{self._cpus} cores"
        needs += f", {self._gpus} GPU" if self._gpus else ""
        needs += f" and {self._engine.memory_mb:,} MiB of memory" if self._engine.memory_mb else ""
        begin(f"waiting for a node of the cluster with {needs}", quietly=True)
        if self._counted_at - self._no_slot_since > _NO_SLOT_SECONDS:
            raise ClusterError(
                f"no node of the cluster has {needs}; lower --task-cpus or --task-memory, or add such a node"
            )

    def _slots_of(self, node: dict[str, Any]) -> int:
        resources = node["Resources"] if node["Alive"] else {}
        slots = resources.get("CPU", 0) / self._cpus
        if self._engine.memory_mb:
            slots = min(slots, resources.get("memory", 0) / (self._engine.memory_mb * 2**20))
        if self._gpus:
            slots = min(slots, resources.get("GPU", 0) / self._gpus)
        return int(slots)


def call(function: Callable[[Any], Any], task: Any) -> Outcome:
    """Calls `function` on a node. Exceptions are returned in the outcome, because Ray would wrap raised ones."""
    node = f"{socket.gethostname()} ({_address()})"
    try:
        return Outcome(node, function(task), None)
    except Exception as error:
        error.__context__ = error.__cause__ = None
        return Outcome(node, None, error.with_traceback(None))


def _address() -> str:
    import ray

    return str(ray.util.get_node_ip_address())
