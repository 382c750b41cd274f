"""One worker process: how it is started and given calls, and the program that it runs."""

from __future__ import annotations

import contextlib
import ctypes
import math
import multiprocessing
import os
import pickle
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

_PROGRAM = """
import sys
descriptor, parent, memory_mb, *sys.path = sys.argv[1:]
try:
    from pipeline.prepare.workers.process import serve
except BaseException as error:
    from multiprocessing.connection import Connection
    Connection(int(descriptor)).send(f"{type(error).__name__}: {error}")
else:
    serve(int(descriptor), int(parent), int(memory_mb))
"""
"""Source code for `python -c`; its arguments are those of `serve`, and then the module search path."""
_PR_SET_PDEATHSIG = 1
_FILES_PER_WORKER = 500
"""Number of files after which a worker is replaced, to free the memory that decoders leak."""
_START_SECONDS = 60.0
"""Time in seconds within which a new worker must begin its first call."""


_ALIVE = b""
"""What a worker sends during a call to have its time limit start again."""
_parent: Connection | None = None
"""In a worker, the connection to the parent process."""


class WorkerDied(Exception):
    """A worker process ended during a call; `WorkerPool` raises this only after its retries.

    Attributes:
        exitcode: exit status of the process, or the negative number of the signal that ended it; None if unknown.
    """

    def __init__(self, exitcode: int | None) -> None:
        super().__init__(exitcode)
        self.exitcode = exitcode

    def __str__(self) -> str:
        return _ending(self.exitcode)


class CallNotBegun(Exception):
    """The call did not begin; the message says why."""


class Worker:
    """A process, started when needed, that makes one call at a time. One thread owns it; others may only `kill` it."""

    def __init__(self, memory_mb: int, stopping: threading.Event) -> None:
        self._memory_mb = memory_mb
        self._stopping = stopping
        self._running: tuple[subprocess.Popen, Connection] | None = None
        self._calls = 0

    @property
    def is_started(self) -> bool:
        """Whether there is a process, which may have been killed meanwhile."""
        return self._running is not None

    def begin(self, payload: bytes) -> None:
        """Hands a call over; returns when it begins.

        Raises:
            CallNotBegun: there is no process, or it has ended or cannot import the function.
        """
        try:
            connection = (self._running or self._start())[1]
            connection.send_bytes(payload)
            found = connection.recv() if connection.poll(_START_SECONDS) else f"no answer in {_START_SECONDS:g} s"
        except (EOFError, ConnectionError):
            found = f"a process ended at its start, {_ending(self.end())}"
        except OSError as error:
            found = str(error)
        if found is not None:
            self.end()
            raise CallNotBegun(found)

    def outcome(self, timeout: float | None) -> Any:
        """Returns what the call returns.

        Raises:
            TimeoutError, WorkerDied: the call neither ends nor calls `restart_time_limit`, or the process has ended; or
                what the call raises.
        """
        assert self._running is not None
        connection = self._running[1]
        data = _ALIVE
        while data == _ALIVE:
            self._wait(connection, math.inf if timeout is None else timeout)
            try:
                data = connection.recv_bytes()
            except (EOFError, OSError):
                raise WorkerDied(self.end()) from None
        succeeded, value = pickle.loads(data)
        self._calls += 1
        if self._calls == _FILES_PER_WORKER:
            self.end()
        if succeeded:
            return value
        raise value

    def _wait(self, connection: Connection, left: float) -> None:
        # Counted in slices, so that a pause of the whole job (Ctrl-Z, a suspended machine) does not count.
        while not connection.poll(min(left, 1.0)):
            left -= 1.0
            if left <= 0:
                self.end()
                raise TimeoutError

    def kill(self) -> None:
        """Kills the process. Set the event `stopping` first, so that no other one is started."""
        if (running := self._running) is not None:
            running[0].kill()

    def end(self) -> int | None:
        """Ends the process. Returns its exit status; None if there is no process or it cannot be killed."""
        if self._running is None:
            return None
        (process, connection), self._running = self._running, None
        connection.close()
        for seconds in (0.5, 10.0):  # wait first: a process that is ending has its own exit status
            try:
                return process.wait(seconds)
            except subprocess.TimeoutExpired:
                process.kill()
        return None

    def _start(self) -> tuple[subprocess.Popen, Connection]:
        connection, other_end = multiprocessing.Pipe()
        with other_end:
            arguments = [str(other_end.fileno()), str(os.getpid()), str(self._memory_mb), *sys.path]
            command = [sys.executable, "-c", _PROGRAM, *arguments]
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=[other_end.fileno()])
        self._running, self._calls = (process, connection), 0
        if self._stopping.is_set():
            process.kill()
        return self._running


def _ending(exitcode: int | None) -> str:
    if exitcode is not None and exitcode < 0:
        return signal.Signals(-exitcode).name
    return f"exit code {exitcode}"


def restart_time_limit() -> None:
    """Called in a worker during a call: gives the rest of it the whole time limit. Elsewhere it does nothing."""
    if _parent is not None:
        _parent.send_bytes(_ALIVE)


def serve(descriptor: int, parent: int, memory_mb: int) -> None:
    """Serves calls until the pipe is closed: sends None and then the outcome, or why the call cannot begin.

    Args:
        descriptor: file descriptor of this end of the pipe.
        parent: id of the parent process; this process is killed when that one ends, however it ends.
        memory_mb: address space in MiB that a call may use in addition to what the process occupies before it.
    """
    # The kernel sends the signal even while a decoder holds the interpreter's lock.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        return
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(OSError):
        # If the machine runs out of memory, let the system kill a worker, whose file can be tried again.
        Path("/proc/self/oom_score_adj").write_text("500", encoding="ascii")
    global _parent
    connection = _parent = Connection(descriptor)
    # The parent closes its end when it stops the worker.
    with contextlib.suppress(EOFError, OSError):
        while True:
            payload = connection.recv_bytes()
            try:
                function, args, kwargs = pickle.loads(payload)
            except BaseException as error:
                connection.send(f"{type(error).__name__}: {error}")
                continue
            connection.send(None)
            _limit_memory(memory_mb)
            outcome = _outcome(function, args, kwargs)
            _limit_memory(None)
            connection.send_bytes(_pickled(*outcome))


def _limit_memory(memory_mb: int | None) -> None:
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    limit = hard
    if memory_mb is not None:
        with open("/proc/self/statm", encoding="ascii") as file:
            present = int(file.read().split()[0]) * resource.getpagesize()
        limit = present + memory_mb * 2**20
        if hard != resource.RLIM_INFINITY:
            limit = min(limit, hard)
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))


def _outcome(function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[bool, Any]:
    try:
        return True, function(*args, **kwargs)
    except BaseException as error:
        # The traceback and the context would keep alive what the call has allocated.
        error.__context__ = error.__cause__ = None
        return False, error.with_traceback(None)


def _pickled(succeeded: bool, value: Any) -> bytes:
    try:
        data = pickle.dumps((succeeded, value))
        if not succeeded:
            pickle.loads(data)  # some exceptions can be pickled but not unpickled
        return data
    except Exception as error:
        shown = error if succeeded else value
        return pickle.dumps((False, RuntimeError(f"{type(shown).__name__}: {shown}")))
