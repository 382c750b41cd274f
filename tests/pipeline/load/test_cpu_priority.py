"""On a CPU, the loader's threads use only the cores that training leaves idle."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from common.cpu_priority import use_idle_priority, yield_cpu
from pipeline.loader import make_loader
from settings import Config


def threads() -> dict[int, str]:
    found = {}
    for folder in Path("/proc/self/task").iterdir():
        try:
            found[int(folder.name)] = (folder / "comm").read_text().strip()
        except OSError:  # the thread has ended
            continue
    return found


def added_threads(config: Config) -> list[tuple[str, int]]:
    """Name and scheduling policy of the threads that a loader starts for its first batch."""
    torch.empty(2**20).fill_(0)  # starts the caller's own threads
    before = threads()
    batches = make_loader(config).epoch(0)
    next(batches)
    return [(name, os.sched_getscheduler(n)) for n, name in threads().items() if n not in before]


def test_decoding_and_resampling_have_idle_priority_and_the_caller_does_not(corpus) -> None:
    added = added_threads(corpus.config("dali-jpeg", data={"threads": 2, "idle_priority": True}))
    decoding = [name for name, _ in added if name.startswith("[DALI][TP")]
    assert len(decoding) >= 2, added
    others = [name for name, _ in added if not name.startswith("[DALI]")]
    assert len(others) >= 4, added  # two torch threads, the reader and the driver
    assert {policy for _, policy in added} == {os.SCHED_IDLE}, added
    assert os.sched_getscheduler(0) == os.SCHED_OTHER


def test_without_idle_priority_all_threads_have_the_callers_priority(corpus) -> None:
    added = added_threads(corpus.config("dali-jpeg", data={"threads": 2, "idle_priority": False}))
    assert len(added) >= 6, added
    assert {policy for _, policy in added} == {os.SCHED_OTHER}, added


def test_only_threads_of_idle_priority_yield_and_not_at_every_call(monkeypatch: pytest.MonkeyPatch) -> None:
    yielded_at, now = [], [10.0]
    monkeypatch.setattr("os.sched_yield", lambda: yielded_at.append(now[0]))
    monkeypatch.setattr("time.perf_counter", lambda: now[0])

    def work() -> None:
        for now[0] in (10.0, 10.0001, 10.0003, 10.0004, 10.1):
            yield_cpu()

    work()
    assert yielded_at == []
    with ThreadPoolExecutor(1, initializer=use_idle_priority) as pool:
        pool.submit(work).result()
    assert yielded_at == [10.0, 10.0003, 10.1]


_MEASURE_SPINNING = """
import os, sys, time
os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])
import torch
from pipeline.load.cpu_threads import SingleThreadTorchPool

torch.set_num_threads(2)
if sys.argv[1] == "with":
    threads = SingleThreadTorchPool(1)
numbers = torch.empty(2**20)
numbers.fill_(0)
began = time.process_time()
for _ in range(20):
    numbers.fill_(0)
    time.sleep(0.02)
print(time.process_time() - began)
"""


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="OpenMP threads spin only if each has its own core")
def test_openmp_threads_do_not_spin_between_operations_if_there_is_a_loader() -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_"))}

    def cpu_seconds(threads: str) -> float:
        command = [sys.executable, "-c", _MEASURE_SPINNING, threads]
        return float(subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout)

    assert cpu_seconds("with") < 0.5 * cpu_seconds("without")
