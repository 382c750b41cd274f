"""On a CPU the loader's threads run only where training leaves a core idle."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pipeline.loader import make_loader
from pipeline.priority import give_way, yield_to_training


def threads() -> dict[int, str]:
    found = {}
    for folder in Path("/proc/self/task").iterdir():
        try:
            found[int(folder.name)] = (folder / "comm").read_text().strip()
        except OSError:  # it has ended
            continue
    return found


def test_decoding_and_resampling_give_way_and_the_caller_does_not(corpus) -> None:
    before = threads()
    config = corpus.config("dali-jpeg", data={"threads": 2})
    batches = make_loader(config).epoch(0)
    next(batches)
    added = {number: name for number, name in threads().items() if number not in before}
    decoding = [number for number, name in added.items() if name.startswith("[DALI][TP")]
    assert len(decoding) >= 4, added  # two of the video's graph and two of the sound's
    assert {os.sched_getscheduler(number) for number in added} == {os.SCHED_IDLE}, added
    assert os.sched_getscheduler(0) == os.SCHED_OTHER


def test_only_a_thread_that_yields_gives_way_and_not_all_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    given, now = [], [10.0]
    monkeypatch.setattr("os.sched_yield", lambda: given.append(now[0]))
    monkeypatch.setattr("time.perf_counter", lambda: now[0])

    def work() -> None:
        for now[0] in (10.0, 10.0001, 10.0003, 10.0004, 10.1):
            give_way()

    work()
    assert given == []
    with ThreadPoolExecutor(1, initializer=yield_to_training) as pool:
        pool.submit(work).result()
    assert given == [10.0, 10.0003, 10.1]
