"""Worker processes that a hostile file may crash, hang or fill without harm to the run."""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, wait
from concurrent.futures import TimeoutError as TookTooLong  # not the builtin one before Python 3.11
from typing import Any, TypeVar

from pebble import ProcessExpired, ProcessPool

from pipeline.prepare.rejection import RejectedSource

Task = TypeVar("Task")
# Memory that decoders leak goes back after this many files.
_FILES_A_WORKER = 500
# Tasks handed over ahead, per worker: enough that none waits, few enough that an interruption is quick.
_AHEAD = 3


def worker_pool(workers: int, *, memory_mb: int) -> ProcessPool:
    """Processes whose death costs their own task only; they end with this process, however that ends."""
    return ProcessPool(
        max_workers=workers,
        max_tasks=_FILES_A_WORKER,
        initializer=_limit,
        initargs=(memory_mb, os.getpid()),
        # Not fork: threads of the parent's libraries would leave locks held for ever in the children.
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
    """Calls `function` (importable, picklable) on each task in a worker process; yields as they end, in any order.

    The second item is None, or what went wrong: an RejectedSource that a person understands for whatever the file did
    (raised by `function`, or a time-out, a crash, too little memory), any other exception as `function` raised it.
    """
    pool = worker_pool(workers, memory_mb=memory_mb)
    waiting = iter(tasks)
    running: dict[Any, Task] = {}
    finished = False
    try:
        while True:
            while len(running) < _AHEAD * workers and (task := next(waiting, None)) is not None:
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
    """What a task's error says of its file: an RejectedSource if the process was lost, the error itself otherwise."""
    if isinstance(error, MemoryError):
        return RejectedSource("out of memory", f"needs more than memory_mb={memory_mb}")
    if isinstance(error, TookTooLong):
        return RejectedSource("timed out", f"took longer than timeout_seconds={timeout_seconds:g}")
    if isinstance(error, ProcessExpired):
        code = error.exitcode
        name = signal.Signals(-code).name if code is not None and code < 0 else f"exit code {code}"
        if name == "SIGKILL":
            return RejectedSource("out of memory", "killed by the system; use fewer workers or a smaller memory_mb")
        return RejectedSource("decoder crashed", name)
    return error


def _limit(memory_mb: int, parent: int) -> None:
    # The parent decides what an interruption means.
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
