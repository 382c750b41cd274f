"""Worker processes: a damaged file may crash, hang or exhaust one of them without harm to the run.

Each worker has a pipe and a thread of its own. Workers share no lock and no queue, so a worker that is killed, at any
moment, leaves nothing locked or half written for the others, and the pool knows which call it was running.
"""

from __future__ import annotations

import pickle
import signal
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import contextmanager
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any, TypeVar

from pipeline.media.rejection import RejectedSource
from pipeline.prepare.workers.process import CallNotBegun, Worker, WorkerDied

Task = TypeVar("Task")
_TASKS_AHEAD = 3
"""Number of tasks scheduled per worker: enough to keep it busy, few enough for a quick interruption."""
_DEATHS_BESIDE_OTHERS, _DEATHS_ALONE = 2, 2
"""A call fails after this many workers died of it while other calls were running, and then while it ran alone."""
_PAUSE_SECONDS = 1.0
"""Pause in seconds after a failure to start a worker: a lack of processes or memory may pass."""
_GIVE_UP_AFTER = (20, 20.0)
"""Number of failures to start, and seconds since the first of them, after which a pool without any worker gives up."""


class WorkersCannotStart(Exception):
    """No worker can be started; the message is meant for the user."""


@dataclass(kw_only=True)
class _Call:
    """A pickled (function, args, kwargs), and the number of workers that have died of it."""

    payload: bytes
    timeout: float | None
    future: Future
    deaths: int = 0


class WorkerPool:
    """Calls functions in worker processes. All of them end when this process ends, however it ends.

    A worker that dies is replaced, and its call is made again: at first alongside other calls, then alone, so that all
    memory is available to it. A call that kills its worker twice even then fails with WorkerDied.

    Args:
        memory_mb: address space in MiB that a call may use in addition to what its worker occupies before it.

    Raises:
        WorkersCannotStart: this process cannot start a thread.
    """

    def __init__(self, workers: int, *, memory_mb: int) -> None:
        self._calls: SimpleQueue[_Call | None] = SimpleQueue()
        self._stopping = threading.Event()
        self._failed_starts = 0
        self._failing_since = 0.0
        self._turnstile = threading.Lock()
        self._workers: dict[threading.Thread, Worker] = {}
        for _ in range(workers):
            worker = Worker(memory_mb, self._stopping)
            thread = threading.Thread(target=self._serve, args=(worker,), name="worker", daemon=True)
            try:
                thread.start()
            except RuntimeError as error:
                if not self._workers:
                    raise WorkersCannotStart(_no_worker(str(error))) from None
                break
            self._workers[thread] = worker
        self._free = threading.Semaphore(len(self._workers))

    def schedule(
        self,
        function: Callable[..., Any],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        timeout: float | None = None,
    ) -> Future:
        """Calls `function` (importable and picklable) in a worker as soon as one is free.

        Args:
            timeout: limit in seconds for the call alone; waiting, starting a worker and importing do not count.

        Returns:
            The future of what the function returns or raises, or else of a TimeoutError, WorkerDied or
            WorkersCannotStart.
        """
        payload = pickle.dumps((function, args, kwargs or {}))
        call = _Call(payload=payload, timeout=timeout, future=Future())
        self._calls.put(call)
        return call.future

    def stop(self) -> None:
        """Kills all workers. Calls that have not ended raise InterruptedError."""
        self._stopping.set()
        for worker in self._workers.values():
            worker.kill()
        for _ in self._workers:
            self._calls.put(None)
        for thread in self._workers:
            thread.join()
        while not self._calls.empty():  # those whose worker was killed just now
            if (call := self._calls.get()) is not None:
                call.future.set_exception(InterruptedError("the workers were stopped"))

    def _serve(self, worker: Worker) -> None:
        # The worker inherits this mask. A terminal sends Ctrl-C to it too, but only the parent process handles it.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        while (call := self._calls.get()) is not None:
            if not call.future.running() and not call.future.set_running_or_notify_cancel():
                continue
            try:
                call.future.set_result(self._try(worker, call))
            except _TryAgain as again:
                # Before the pause, so that another worker can take it.
                self._calls.put(call)
                self._stopping.wait(again.pause)
            except BaseException as error:
                call.future.set_exception(error)
        worker.end()

    def _try(self, worker: Worker, call: _Call) -> Any:
        share = 1 if call.deaths < _DEATHS_BESIDE_OTHERS else len(self._workers)
        with self._running(share):
            if self._stopping.is_set():
                raise InterruptedError("the workers were stopped")
            is_new = not worker.is_started
            try:
                worker.begin(call.payload)
                self._failed_starts = 0
                return worker.outcome(call.timeout)
            except WorkerDied:
                call.deaths += 1
                if call.deaths == _DEATHS_BESIDE_OTHERS + _DEATHS_ALONE:
                    raise
                raise _TryAgain(pause=0.0) from None
            except CallNotBegun as error:
                found = str(error)
        if is_new:  # else the worker was killed while it had no call
            self._note_failed_start(found)
        raise _TryAgain(pause=_PAUSE_SECONDS if is_new else 0.0)

    @contextmanager
    def _running(self, share: int) -> Iterator[None]:
        """Holds `share` of the pool's slots, one per worker, during the block; later callers queue behind this one."""
        with self._turnstile:
            for _ in range(share):
                self._free.acquire()
        try:
            yield
        finally:
            self._free.release(share)

    def _note_failed_start(self, found: str) -> None:
        if not self._failed_starts:
            self._failing_since = time.monotonic()
        self._failed_starts += 1
        failures, seconds = _GIVE_UP_AFTER
        has_worker = any(worker.is_started for worker in self._workers.values())
        if not has_worker and self._failed_starts >= failures and time.monotonic() - self._failing_since >= seconds:
            raise WorkersCannotStart(_no_worker(found))


class _TryAgain(Exception):
    """The call did not begin, or ended its worker, and is to be made again; `pause` is for the worker, in seconds."""

    def __init__(self, *, pause: float) -> None:
        super().__init__()
        self.pause = pause


def worker_pool(workers: int, *, memory_mb: int) -> WorkerPool:
    """Makes a pool of processes; see `WorkerPool`."""
    return WorkerPool(workers, memory_mb=memory_mb)


def run_tasks(
    function: Callable[[Task], Any],
    tasks: Iterable[Task],
    *,
    workers: int,
    timeout_seconds: float,
    memory_mb: int,
) -> Generator[tuple[Task, BaseException | None], None, None]:
    """Calls `function` (importable and picklable) on each task in a worker process; see `WorkerPool`.

    Yields:
        (task, error) as the tasks end, in any order. The error is None after success; a RejectedSource if `function`
        raised it, or if the task timed out, crashed or ran out of memory; else the exception that `function` raised.

    Raises:
        WorkersCannotStart: no worker process can be started.
    """
    waiting = iter(tasks)
    running: dict[Future, Task] = {}
    pool = worker_pool(workers, memory_mb=memory_mb)
    try:
        while True:
            while len(running) < _TASKS_AHEAD * workers and (task := next(waiting, None)) is not None:
                running[pool.schedule(function, args=(task,), timeout=timeout_seconds)] = task
            if not running:
                return
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                error = future.exception()
                if isinstance(error, WorkersCannotStart):
                    raise error
                yield running.pop(future), classify_failure(error, timeout_seconds, memory_mb)
    finally:
        pool.stop()


def classify_failure(error: BaseException | None, timeout_seconds: float, memory_mb: int) -> BaseException | None:
    """Turns a time-out, a crash or a lack of memory into a RejectedSource; returns any other error unchanged."""
    if isinstance(error, MemoryError):
        return RejectedSource("out of memory", f"needs more than memory_mb={memory_mb}")
    if isinstance(error, TimeoutError):
        return RejectedSource("timed out", f"took longer than timeout_seconds={timeout_seconds:g}")
    if isinstance(error, WorkerDied):
        if error.exitcode == -signal.SIGKILL:
            return RejectedSource(
                "out of memory", "killed by the system each time, even while no other file was being processed"
            )
        return RejectedSource("decoder crashed", str(error))
    return error


def _no_worker(found: str) -> str:
    return f"no worker process can be started ({found}); free memory or processes, then run the same command again"
