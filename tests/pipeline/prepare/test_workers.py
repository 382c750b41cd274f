"""A task that crashes, hangs or exhausts memory does not affect other tasks."""

from __future__ import annotations

import os
import signal
import time

import pytest

from pipeline.prepare.rejection import RejectedSource
from pipeline.prepare.workers import run_tasks


def run(function, tasks, *, timeout_seconds: float = 30.0, memory_mb: int = 512):
    results = run_tasks(function, tasks, workers=1, timeout_seconds=timeout_seconds, memory_mb=memory_mb)
    return dict(results)


def test_a_hanging_task_is_stopped_and_the_next_one_runs():
    result = run(time.sleep, [0.01, 1000.0, 0.02], timeout_seconds=1.0)
    assert result[0.01] is None
    assert result[0.02] is None
    assert str(result[1000.0]) == "timed out: took longer than timeout_seconds=1"


@pytest.mark.parametrize(
    ("function", "task", "message"),
    [
        (signal.raise_signal, signal.SIGSEGV, "decoder crashed: SIGSEGV"),
        (signal.raise_signal, signal.SIGKILL, "out of memory: killed by the system"),
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
