"""A task that crashes, hangs or exhausts memory does not affect other tasks, and a killed worker loses none."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from pipeline.media.rejection import RejectedSource
from pipeline.prepare.workers import pool, process
from pipeline.prepare.workers.pool import WorkersCannotStart, run_tasks, worker_pool

DIES_IN_FIRST_CALLS = """
import os, pathlib, time
note = pathlib.Path({folder!r}) / "{name}"
with note.open("a") as file:
    file.write("x")
if len(note.read_text()) <= {times}:
    os.kill(os.getpid(), {signal})
"""
DIES_IN_FIRST_STARTS = """
import os, pathlib
note = pathlib.Path({note!r})
with note.open("a") as file:
    file.write("x")
if len(note.read_text()) <= {times}:
    os.kill(os.getpid(), 9)
"""


def run(function, tasks, *, count: int = 1, timeout_seconds: float = 30.0, memory_mb: int = 512):
    results = run_tasks(function, tasks, workers=count, timeout_seconds=timeout_seconds, memory_mb=memory_mb)
    return dict(results)


def test_a_hanging_task_is_stopped_and_the_next_one_runs():
    result = run(time.sleep, [0.01, 1000.0, 0.02], timeout_seconds=0.5)
    assert result[0.01] is None
    assert result[0.02] is None
    assert str(result[1000.0]) == "timed out: took longer than timeout_seconds=0.5"


def test_a_task_that_makes_progress_is_given_more_time():
    task = "import time\nfrom pipeline.prepare.workers.process import restart_time_limit as more\n"
    task += "for _ in range(5):\n    time.sleep(0.3)\n    more()"
    assert run(exec, [task, "import time; time.sleep(1000)"], timeout_seconds=1.0)[task] is None


@pytest.mark.parametrize(
    ("function", "task", "message"),
    [
        (signal.raise_signal, signal.SIGSEGV, "decoder crashed: SIGSEGV"),
        (signal.raise_signal, signal.SIGKILL, "out of memory: killed by the system each time"),
        (os._exit, 3, "decoder crashed: exit code 3"),
        (bytearray, 3 << 30, "out of memory: needs more than memory_mb=512"),
    ],
)
def test_a_crash_or_too_little_memory_becomes_a_rejection(function, task, message):
    error = run(function, [task])[task]
    assert isinstance(error, RejectedSource)
    assert str(error).startswith(message)


def test_other_exceptions_are_returned_unchanged():
    assert isinstance(run(int, ["x", "1"])["x"], ValueError)


def test_an_exception_that_cannot_be_pickled_becomes_one_that_says_the_same():
    (error,) = run(exec, ["class Odd(Exception): pass\nraise Odd('what happened')"]).values()
    assert str(error) == "Odd: what happened"


def test_memory_that_earlier_tasks_leaked_is_not_charged_to_the_next():
    leak = "import builtins; builtins.leak{0} = bytearray(300 << 20)"
    assert set(run(exec, [leak.format(number) for number in range(3)]).values()) == {None}


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM])
def test_a_task_whose_worker_was_killed_is_tried_again_and_at_last_alone(tmp_path, number):
    def task(name: str, times: int) -> str:
        return DIES_IN_FIRST_CALLS.format(folder=str(tmp_path), name=name, times=times, signal=int(number))

    tasks = [task("never", 0), task("once", 1), task("three", 3), task("always", 9), task("after", 0)]
    errors = run(exec, tasks, count=2)
    assert [type(errors[task]) for task in tasks] == [type(None)] * 3 + [RejectedSource, type(None)]
    tries = {path.name: len(path.read_text()) for path in tmp_path.iterdir()}
    assert tries == {"never": 1, "once": 2, "three": 4, "always": 4, "after": 1}


def test_from_the_third_try_on_a_task_runs_alone(tmp_path):
    log = tmp_path / "log"
    note = f"import time, os\ndef note(text):\n    with open({str(log)!r}, 'a') as log: log.write(text + '\\n')\n"
    dying = "import signal\nnote('dies')\ntime.sleep(0.05)\nnote('dead')\nos.kill(os.getpid(), 9)"
    tasks = [note + dying, *(note + f"note('begins')\ntime.sleep(0.1)\nnote('ends')  # {i}" for i in range(8))]
    run(exec, tasks, count=2)
    lines = log.read_text().split()
    assert lines.count("dies") == 4
    for number in (2, 3):
        place = [i for i, line in enumerate(lines) if line == "dies"][number]
        assert lines[place + 1] == "dead"
        assert lines[:place].count("begins") == lines[:place].count("ends")


@pytest.mark.parametrize("times", [1, 3])
def test_a_worker_that_dies_while_it_starts_is_started_again(tmp_path, monkeypatch, times):
    program = DIES_IN_FIRST_STARTS.format(note=str(tmp_path / "note"), times=times) + process._PROGRAM
    monkeypatch.setattr(process, "_PROGRAM", program)
    monkeypatch.setattr(pool, "_PAUSE_SECONDS", 0.05)
    assert run(time.sleep, [0.01, 0.02, 0.03], count=2) == {0.01: None, 0.02: None, 0.03: None}


@pytest.mark.parametrize(
    ("program", "message"),
    [
        ("import os; os.kill(os.getpid(), 9)", "a process ended at its start, SIGKILL"),
        (
            process._PROGRAM.replace("import serve", "import nothing"),
            "ImportError: cannot import name 'nothing'",
        ),
    ],
)
def test_workers_that_never_start_end_the_run_with_one_sentence(monkeypatch, program, message):
    monkeypatch.setattr(process, "_PROGRAM", program)
    monkeypatch.setattr(pool, "_PAUSE_SECONDS", 0.05)
    monkeypatch.setattr(pool, "_GIVE_UP_AFTER", (5, 0.1))
    with pytest.raises(WorkersCannotStart, match="no worker process can be started") as caught:
        run(time.sleep, [0.01, 0.02], count=2)
    assert message in str(caught.value)


def test_a_system_without_free_processes_ends_the_run_with_one_sentence(no_free_process):
    with pytest.raises(WorkersCannotStart, match="Resource temporarily unavailable"):
        run(time.sleep, [0.01])


def test_if_only_one_worker_can_start_it_does_all_the_work(monkeypatch):
    start, only_once = subprocess.Popen, threading.Lock()

    def first_only(*args, **kwargs):
        if only_once.acquire(blocking=False):
            return start(*args, **kwargs)
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(subprocess, "Popen", first_only)
    monkeypatch.setattr(pool, "_PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(pool, "_GIVE_UP_AFTER", (5, 0.0))
    tasks = [0.01 * i for i in range(9)]
    assert run(time.sleep, tasks, count=3) == dict.fromkeys(tasks)


def test_idle_workers_that_are_killed_are_replaced():
    workers = worker_pool(2, memory_mb=512)
    try:
        for _ in range(3):
            pid = workers.schedule(os.getpid).result(30)
            os.kill(pid, signal.SIGKILL)
            time.sleep(0.05)
        assert workers.schedule(pow, (2, 5)).result(30) == 32
    finally:
        workers.stop()


def test_workers_end_with_their_parent_even_while_they_work(tmp_path):
    script = (
        "import os, sys, threading\nfrom pipeline.prepare.workers.pool import worker_pool\n"
        "pool = worker_pool(1, memory_mb=512)\nprint(pool.schedule(os.getpid).result(), flush=True)\n"
        "pool.schedule(exec, ('while True: pass',)).result()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, cwd=Path(__file__).parents[3]
    ) as parent:
        worker = int(parent.stdout.readline())
        parent.kill()
    deadline = time.monotonic() + 5
    while _is_alive(worker) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not _is_alive(worker)


def _is_alive(pid: int) -> bool:
    try:
        return ") Z" not in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False


def test_stopping_a_pool_ends_calls_and_processes_at_once():
    before = set(threading.enumerate())
    workers = worker_pool(2, memory_mb=512)
    pid = workers.schedule(os.getpid).result(30)
    calls = [workers.schedule(time.sleep, (1000,)) for _ in range(5)]
    time.sleep(0.1)
    begun = time.monotonic()
    workers.stop()
    assert time.monotonic() - begun < 3
    assert not _is_alive(pid)
    assert all(isinstance(call.exception(1), InterruptedError) for call in calls)
    assert not [thread for thread in set(threading.enumerate()) - before if thread.name == "worker"]
