"""Worker processes: a damaged file may crash, hang or exhaust one of them without harm to the run."""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, wait
from concurrent.futures import TimeoutError as TaskTimeoutError
from typing import Any, TypeVar

from pebble import ProcessExpired, ProcessPool

from pipeline.prepare.rejection import RejectedSource

Task = TypeVar("Task")
_FILES_PER_WORKER = 500
"""Number of files after which a worker is replaced, to free the memory that decoders leak."""
_TASKS_AHEAD = 3
"""Number of tasks scheduled per worker: enough to keep it busy, few enough for a quick interruption."""


def worker_pool(workers: int, *, memory_mb: int) -> ProcessPool:
    """Makes a pool of processes. One that dies loses only its own task, and all end when this process ends.

    Args:
        memory_mb: address space in MiB that a worker may use in addition to what it occupies at startup.
    """
    return ProcessPool(
        max_workers=workers,
        max_tasks=_FILES_PER_WORKER,
        initializer=_limit,
        initargs=(memory_mb, os.getpid()),
        # Not fork: a child would inherit locks held by library threads of the parent, and wait for them forever.
        context=multiprocessing.get_context("spawn"),
    )


def run_tasks(
    function: Callable[[Task], Any],
    tasks: Iterable[Task],
    *,
    workers: int,
    timeout_seconds: float,
    memory_mb: int,
) -> Iterator[tuple[Task, BaseException | None]]:
    """Calls `function` (importable and picklable) on each task in a worker process.

    Args:
        memory_mb: as for `worker_pool`.

    Yields:
        (task, error) as the tasks end, in any order. The error is None after success; a RejectedSource if `function`
        raised it, or if the task timed out, crashed or ran out of memory; else the exception that `function` raised.
    """
    pool = worker_pool(workers, memory_mb=memory_mb)
    waiting = iter(tasks)
    running: dict[Any, Task] = {}
    finished = False
    try:
        while True:
            while len(running) < _TASKS_AHEAD * workers and (task := next(waiting, None)) is not None:
                running[pool.schedule(function, args=(task,), timeout=timeout_seconds)] = task
            if not running:
                finished = True
                return
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                yield running.pop(future), classify_failure(future.exception(), timeout_seconds, memory_mb)
    finally:
        pool.close() if finished else pool.stop()
        pool.join()


def classify_failure(error: BaseException | None, timeout_seconds: float, memory_mb: int) -> BaseException | None:
    """Turns a time-out, a crash or a lack of memory into a RejectedSource; returns any other error unchanged."""
    if isinstance(error, MemoryError):
        return RejectedSource("out of memory", f"needs more than memory_mb={memory_mb}")
    if isinstance(error, TaskTimeoutError):
        return RejectedSource("timed out", f"took longer than timeout_seconds={timeout_seconds:g}")
    if isinstance(error, ProcessExpired):
        code = error.exitcode
        name = signal.Signals(-code).name if code is not None and code < 0 else f"exit code {code}"
        if name == "SIGKILL":
            return RejectedSource("out of memory", "killed by the system; use fewer workers or a smaller memory_mb")
        return RejectedSource("decoder crashed", name)
    return error


def _limit(memory_mb: int, parent: int) -> None:
    # The parent process handles interruptions.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with open("/proc/self/statm", encoding="ascii") as file:
        present = int(file.read().split()[0]) * resource.getpagesize()
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    limit = present + memory_mb * 2**20
    if hard != resource.RLIM_INFINITY:
        limit = min(limit, hard)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    threading.Thread(target=_end_with_parent, args=(parent,), daemon=True).start()


def _end_with_parent(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)
