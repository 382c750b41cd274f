"""Runs tasks on a Ray cluster. A task whose node or worker dies is given to another one; no other task is affected.

Ray does not repeat tasks here (`max_retries=0`): this module does, because it must count the deaths of each task, and
because only so the number of tasks under way follows the nodes that join and leave.
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
"""Number of tasks under way per free place of the cluster: enough to keep it busy, few enough for a quick end."""
_DEATHS = 4
"""A task fails after so many of its workers or nodes have died."""
_LOOK_SECONDS = 5.0
"""Interval in seconds between two looks at the nodes of the cluster."""
_NO_ROOM_SECONDS = 900.0
"""Time in seconds after which a cluster without any node that is large enough for a task is given up."""


class TaskDied(Exception):
    """The workers or nodes of a task died each time; the message says how the last one did.

    Attributes:
        out_of_memory: whether Ray ended the last one because its node ran out of memory.
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
        (task, outcome) as the tasks end, in any order. The error is a TaskDied if the task's workers died each time.

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
    """Keeps a limited number of tasks under way, and repeats those whose worker died."""

    def __init__(self, function: Callable[[Any], Any], engine: RayEngine, gpus: int) -> None:
        import ray

        self._ray = ray
        self._function, self._engine, self._gpus = function, engine, gpus
        self._cpus = engine.cpus or 1
        needs: dict[str, Any] = {"num_cpus": self._cpus, "max_retries": 0, "max_calls": 0}
        if engine.memory_mb:
            needs["memory"] = engine.memory_mb * 2**20
        if gpus:
            needs["num_gpus"] = gpus
        self._call = ray.remote(**needs)(call)
        self._running: dict[Any, tuple[Any, int]] = {}
        self._again: list[tuple[Any, int]] = []
        self._places, self._looked = 0, -math.inf
        self._no_room_since: float | None = None

    def run(self, tasks: Iterator[Any]) -> Generator[tuple[Any, Outcome], None, None]:
        while True:
            self._look()
            while len(self._running) < self._room() and (entry := self._next(tasks)) is not None:
                self._start(*entry)
            if not self._running:
                return
            for task, outcome, deaths in self._ended():
                if isinstance(outcome.error, TaskDied) and deaths < _DEATHS:
                    self._again.append((task, deaths))
                else:
                    yield task, outcome

    def _room(self) -> int:
        """How many tasks may be under way."""
        room = _TASKS_AHEAD * max(1, self._places)
        return room if self._engine.most is None else min(room, self._engine.most)

    def _next(self, tasks: Iterator[Any]) -> tuple[Any, int] | None:
        """The next task and its number of deaths; None if there is none."""
        if self._again:
            return self._again.pop(0)
        task = next(tasks, None)
        return None if task is None else (task, 0)

    def _start(self, task: Any, deaths: int) -> None:
        self._running[self._call.remote(self._function, task)] = task, deaths

    def _ended(self) -> Iterator[tuple[Any, Outcome, int]]:
        wait, references = self._ray.wait, list(self._running)
        if not wait(references, num_returns=1, timeout=_LOOK_SECONDS)[0]:
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
            raise ClusterError("the Ray of this machine has ended; run the same command again") from None
        except exceptions.OutOfMemoryError:
            error = TaskDied("Ray ended its process because the node ran out of memory", out_of_memory=True)
            return Outcome("", None, error)
        except (exceptions.WorkerCrashedError, exceptions.NodeDiedError, exceptions.ObjectLostError):
            return Outcome("", None, TaskDied("its node died, or Ray's process on the node"))
        except exceptions.RayError as failure:
            # Not raised by the task, whose errors are in its outcome: the node cannot run it at all.
            raise ClusterError(f"a node of the cluster cannot run tasks: {last_line(failure)}") from None

    def _look(self) -> None:
        """Counts how many tasks the cluster has room for; nodes may have joined or left."""
        if time.monotonic() - self._looked < _LOOK_SECONDS:
            return
        self._looked = time.monotonic()
        self._places = sum(map(self._places_of, self._ray.nodes()))
        if self._places:
            self._no_room_since = None
            return
        self._no_room_since = self._no_room_since or self._looked
        needs = f"{self._cpus} cores" + (f", {self._gpus} GPU" if self._gpus else "")
        needs += f" and {self._engine.memory_mb:,} MiB" if self._engine.memory_mb else ""
        begin(f"waiting for a node of the cluster with {needs}", quietly=True)
        if self._looked - self._no_room_since > _NO_ROOM_SECONDS:
            raise ClusterError(
                f"no node of the cluster has {needs}; give --task-cpus or --task-memory less, or add such a node"
            )

    def _places_of(self, node: dict[str, Any]) -> int:
        resources = node["Resources"] if node["Alive"] else {}
        places = resources.get("CPU", 0) / self._cpus
        if self._engine.memory_mb:
            places = min(places, resources.get("memory", 0) / (self._engine.memory_mb * 2**20))
        if self._gpus:
            places = min(places, resources.get("GPU", 0) / self._gpus)
        return int(places)


def call(function: Callable[[Any], Any], task: Any) -> Outcome:
    """Calls `function` on a node. Exceptions are part of the outcome, because Ray would wrap them."""
    node = f"{socket.gethostname()} ({_address()})"
    try:
        return Outcome(node, function(task), None)
    except Exception as error:
        error.__context__ = error.__cause__ = None
        return Outcome(node, None, error.with_traceback(None))


def _address() -> str:
    import ray

    return str(ray.util.get_node_ip_address())
