"""The threads that run a loader's torch work on a CPU: each uses one core and yields it to the training step."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch

from common.cpu_priority import use_idle_priority, yield_cpu

TASKS_PER_THREAD = 4
"""Number of tasks per thread that a batch is split into: few, because submitting a task costs as much as a tenth of a
small clip; more than one, because a thread yields its core only between tasks."""

_PARALLEL_SIZE = 2**16
"""Smallest tensor size, in values, for which torch splits an elementwise operation between two threads."""


class PendingBatch:
    """A batch whose tensor worker threads are filling; `result` waits for them."""

    def __init__(self, batch: torch.Tensor, tasks: list[Future[None]]) -> None:
        self._batch = batch
        self._tasks = tasks

    def result(self) -> torch.Tensor:
        for task in self._tasks:
            task.result()
        return self._batch


class SingleThreadTorchPool:
    """Runs tasks in threads in which torch is single-threaded; the other threads of the process are not affected.

    torch.set_num_threads applies to the calling thread (if that has called get_num_threads before) and becomes the
    default of threads that start later. The pool restores this default.

    Args:
        count: the number of threads.
        idle: whether they run at idle priority and yield between tasks, for a training step on the same CPU.
    """

    def __init__(self, count: int, *, idle: bool = True) -> None:
        self.count = count
        self._pool = ThreadPoolExecutor(count, thread_name_prefix="torch")
        before = torch.get_num_threads()
        all_started = threading.Barrier(count + 1)
        setups = [self.submit(_use_one_core, all_started, first=number == 0, idle=idle) for number in range(count)]
        all_started.wait()
        for setup in setups:
            setup.result()
        torch.set_num_threads(before)

    def submit(self, work: Callable[..., None], *arguments: Any, **keywords: Any) -> Future[None]:
        """Queues a call of `work` and returns immediately."""
        return self._pool.submit(_run_and_yield, work, *arguments, **keywords)


def _run_and_yield(work: Callable[..., None], *arguments: Any, **keywords: Any) -> None:
    work(*arguments, **keywords)
    yield_cpu()


def _use_one_core(all_started: threading.Barrier, *, first: bool, idle: bool) -> None:
    """Sets up one thread of the pool; the barrier makes each thread run this once."""
    if idle:
        use_idle_priority()
    torch.get_num_threads()
    if first:
        # Between two operations of the training step, OpenMP threads (GNU's libgomp) spin for milliseconds on cores
        # that the loader needs, unless libgomp counts more threads than cores. This operation starts one more
        # OpenMP thread, which persists.
        torch.empty(_PARALLEL_SIZE).fill_(0)
    torch.set_num_threads(1)
    all_started.wait()
