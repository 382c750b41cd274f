"""Step times: the slowest rank, excluded time, and waiting for data on a GPU."""

from __future__ import annotations

import time

import pytest
import torch

from tests.training.distributed import processes
from training.distributed import gather_objects, spread_over_ranks
from training.tracking.metrics import StepTimer


def readings_of(rank, size):
    spread = spread_over_ranks({"step_seconds": 2.0, "data_wait": (0.1, 0.7)[rank]})
    return spread, gather_objects({"rank": rank, "rows": list(range(rank))})


def test_all_ranks_get_the_slowest_rank_and_all_objects(tmp_path):
    for spread, objects in processes.run(readings_of, 2, tmp_path):
        assert spread["data_wait_min"] == pytest.approx(0.1)
        assert spread["data_wait_max"] == pytest.approx(0.7)
        assert spread["data_wait_max_rank"] == 1
        assert spread["step_seconds_max"] == spread["step_seconds_min"] == 2.0
        assert objects == [{"rank": 0, "rows": []}, {"rank": 1, "rows": [0]}]


def test_one_process_has_no_stragglers():
    assert spread_over_ranks({"step_seconds": 2.0}) == {}
    assert gather_objects("alone") == ["alone"]


def test_excluded_time_does_not_count_as_a_step(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    timer = StepTimer(torch.device("cpu"))
    timer.batch_requested()
    now[0] += 1.0
    timer.batch_ready()
    now[0] += 13.0
    timer.exclude(10.0)
    reading = timer.read(8)
    assert reading == {"samples_per_second": 2.0, "step_seconds": 4.0, "data_wait": 0.25}


def test_a_gpu_that_still_computes_does_not_wait_for_data(monkeypatch):
    now, busy_until = [100.0], 0.0

    class Event:
        """An event that passes when the host has recorded it and the GPU has finished the work queued before it."""

        def __init__(self, enable_timing):
            assert enable_timing

        def record(self):
            self.passed = max(now[0], busy_until)

        def synchronize(self):
            pass

        def elapsed_time(self, later):
            return (later.passed - self.passed) * 1e3

    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(torch.cuda, "Event", Event)
    timer = StepTimer(torch.device("cuda", 0))
    for seconds in (2.0, 5.0):
        timer.batch_requested()
        now[0] += seconds
        timer.batch_ready()
        busy_until = now[0] + 4.0
    now[0] = busy_until + 5.0
    # The GPU waits for the first 2 seconds and for 1 of the 5: it computes during the other 4.
    assert timer.read(1) == {"samples_per_second": 0.125, "step_seconds": 8.0, "data_wait": 3 / 16}
