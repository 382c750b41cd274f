"""Which rank is slow."""

from __future__ import annotations

import time

import pytest

from tests.training import processes
from training.distributed import gather_objects, spread_over_ranks
from training.metrics import StepTimer


def readings_of(rank, size):
    spread = spread_over_ranks({"step_seconds": 2.0, "data_wait": (0.1, 0.7)[rank]})
    return spread, gather_objects({"rank": rank, "rows": list(range(rank))})


def test_all_ranks_know_the_slowest_rank_and_each_others_objects(tmp_path):
    for spread, objects in processes.run(readings_of, 2, tmp_path):
        assert spread["data_wait_min"] == pytest.approx(0.1)
        assert spread["data_wait_max"] == pytest.approx(0.7)
        assert spread["data_wait_max_rank"] == 1
        assert spread["step_seconds_max"] == spread["step_seconds_min"] == 2.0
        assert objects == [{"rank": 0, "rows": []}, {"rank": 1, "rows": [0]}]


def test_one_process_has_no_stragglers():
    assert spread_over_ranks({"step_seconds": 2.0}) == {}
    assert gather_objects("alone") == ["alone"]


def test_time_left_out_does_not_count_as_a_step(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    timer = StepTimer()
    timer.waited(1.0)
    now[0] += 14.0
    timer.leave_out(10.0)
    reading = timer.read(8)
    assert reading == {"samples_per_second": 2.0, "step_seconds": 4.0, "data_wait": 0.25}
