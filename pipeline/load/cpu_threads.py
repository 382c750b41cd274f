"""Threads in which torch does a loader's work on a CPU: each computes on one core and yields to the training step."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch

from common.cpu_priority import use_idle_priority, yield_cpu

TASKS_PER_THREAD = 4
"""Tasks that a batch is split into, per thread: few, because handing over a task costs as much as a tenth of a small
clip; not one, because a thread yields its core only between tasks."""

_SHARED_BY_TWO = 2**16
"""Number of values from which torch gives each half of an operation to a thread of its own."""


class PendingBatch:
    """A batch that threads are filling; `result` waits for it."""

    def __init__(self, batch: torch.Tensor, tasks: list[Future[None]]) -> None:
        self._batch = batch
        self._tasks = tasks

    def result(self) -> torch.Tensor:
        for task in self._tasks:
            task.result()
        return self._batch


class SingleThreadTorchPool:
    """Runs tasks in threads whose torch starts no threads of its own; the rest of the process is left as it was.

    torch.set_num_threads affects the calling thread, once that has asked for the number, and the number that later
    threads start with, which is therefore restored.

    Args:
        count: the number of threads.
        idle: whether they run at idle priority and yield between tasks, as beside a step that trains on the CPU.
    """

    def __init__(self, count: int, *, idle: bool = True) -> None:
        self.count = count
        self._pool = ThreadPoolExecutor(count, thread_name_prefix="torch")
        before = torch.get_num_threads()
        all_there = threading.Barrier(count + 1)
        started = [self.submit(_use_one_core, all_there, first=number == 0, idle=idle) for number in range(count)]
        all_there.wait()
        for task in started:
            task.result()
        torch.set_num_threads(before)

    def submit(self, work: Callable[..., None], *arguments: Any, **keywords: Any) -> Future[None]:
        return self._pool.submit(_run_and_yield, work, *arguments, **keywords)


def _run_and_yield(work: Callable[..., None], *arguments: Any, **keywords: Any) -> None:
    work(*arguments, **keywords)
    yield_cpu()


def _use_one_core(all_there: threading.Barrier, *, first: bool, idle: bool) -> None:
    if idle:
        use_idle_priority()
    torch.get_num_threads()
    if first:
        # Between two operations of the step OpenMP's threads (GNU's libgomp) spin for milliseconds, on cores that the
        # loader needs, unless libgomp counts more threads than cores. This starts one more, which stays.
        torch.empty(_SHARED_BY_TWO).fill_(0)
    torch.set_num_threads(1)
    all_there.wait()
