"""The soak test's statistics find leaks and only leaks, and its two measurements work."""

from __future__ import annotations

import numpy as np
import pytest

from tests.training.soak import read_batches, slope, train_steps

MB = 1e6


def readings(rng, *, leak=0.0, noise=1 * MB, persistence=0.9):
    counts = np.arange(1, 401) * 50.0
    shocks, level, levels = rng.normal(0, noise, 400), 0.0, []
    for shock in shocks:
        level = persistence * level + shock
        levels.append(level)
    return counts, 800 * MB + np.array(levels) + leak * counts


def test_fluctuating_memory_is_rarely_reported_as_a_leak():
    found = [slope(*readings(np.random.default_rng(seed))).distinguishable for seed in range(200)]
    assert np.mean(found) < 0.12


def test_a_leak_is_found_and_measured():
    for seed in range(20):
        found = slope(*readings(np.random.default_rng(seed), leak=200.0, noise=0.02 * MB))
        assert found.distinguishable
        assert found.bytes_per_thousand == pytest.approx(0.2 * MB, abs=4 * found.standard_error)


def test_an_allocator_that_occasionally_grows_is_rarely_reported_as_a_leak():
    found = []
    for seed in range(200):
        steps = np.random.default_rng(seed).normal(0, 0.05 * MB, 400)
        found.append(slope(np.arange(1, 401) * 50.0, 800 * MB + steps.cumsum()).distinguishable)
    assert np.mean(found) < 0.12


def test_the_warm_up_and_a_single_later_increase_are_not_leaks():
    counts, resident = np.arange(1, 401) * 50.0, np.full(400, 800 * MB)
    resident[:90] -= 100 * MB
    assert not slope(counts, resident).distinguishable
    assert slope(counts, resident).bytes_per_thousand == 0
    for place in (150, 250, 390):
        assert not slope(counts, resident + 1 * MB * (np.arange(400) >= place)).distinguishable


def test_batches_and_steps_are_counted_to_the_end(demo_shards, tmp_path):
    for counts, resident in (read_batches(str(demo_shards), 20), train_steps(str(demo_shards), 4, tmp_path / "run")):
        assert counts[-1] in (20, 4)
        assert (resident > 50 * MB).all()
