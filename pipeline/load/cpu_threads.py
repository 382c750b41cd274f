"""Threads for a loader's work on a CPU that is done by torch: each computes on one core, after the training step."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch

from common.cpu_priority import use_idle_priority

_SHARED_BY_TWO = 2**16
"""Values; torch gives each half of an operation on them to a thread."""


class PendingBatch:
    """A batch that threads work on; `result` waits for it."""

    def __init__(self, batch: torch.Tensor, tasks: list[Future[None]]) -> None:
        self._batch = batch
        self._tasks = tasks

    def result(self) -> torch.Tensor:
        for task in self._tasks:
            task.result()
        return self._batch


class SingleThreadTorchPool:
    """Keeps its threads' torch from starting threads of its own, and everyone else's as it was.

    torch.set_num_threads is of the calling thread, once that has asked for the number; the number that threads to come
    begin with is of the process, hence set back.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self._pool = ThreadPoolExecutor(count, thread_name_prefix="torch")
        before = torch.get_num_threads()
        all_there = threading.Barrier(count + 1)
        started = [self.submit(_use_one_core, all_there, first=number == 0) for number in range(count)]
        all_there.wait()
        for task in started:
            task.result()
        torch.set_num_threads(before)

    def submit(self, work: Callable[..., None], *arguments: Any, **keywords: Any) -> Future[None]:
        return self._pool.submit(work, *arguments, **keywords)


def _use_one_core(all_there: threading.Barrier, *, first: bool) -> None:
    use_idle_priority()
    torch.get_num_threads()
    if first:
        # Between two operations of the step OpenMP's threads (GNU's libgomp) spin for milliseconds, on cores that the
        # loader needs, unless it counts more of them than there are cores. This starts one more, which stays.
        torch.empty(_SHARED_BY_TWO).fill_(0)
    torch.set_num_threads(1)
    all_there.wait()
