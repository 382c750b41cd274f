"""Tests the processes in which the decord loader decodes."""

from __future__ import annotations

import subprocess

import pytest

from pipeline.load.reference import processes
from pipeline.plan.bad_samples import SampleError
from pipeline.prepare.workers import pool


def test_a_system_without_free_processes_is_not_the_fault_of_a_file(monkeypatch) -> None:
    def refuse(*_args, **_kwargs):
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(subprocess, "Popen", refuse)
    monkeypatch.setattr(pool, "_PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(pool, "_GIVE_UP_AFTER", (5, 0.05))
    processes.decoding_processes.cache_clear()
    try:
        with pytest.raises(SampleError, match="no worker process can be started") as caught:
            processes.call_in_process(1, len, "a.mp4")
        assert caught.value.sample is None
    finally:
        processes.decoding_processes.cache_clear()
