from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from experiments.analysis.statistics import compare, estimate, holm, time_to_reach


def test_the_interval_covers_the_true_mean_in_95_of_100_samples():
    rng = np.random.default_rng(0)
    estimates = [estimate(rng.normal(1.0, 2.0, size=5)) for _ in range(4000)]
    covered = np.mean([abs(e.mean - 1.0) <= e.half_width for e in estimates])
    assert covered == pytest.approx(0.95, abs=0.015)


def test_one_seed_has_no_interval_and_says_so():
    alone = estimate([0.5])
    assert math.isnan(alone.half_width)
    assert "1 seed" in str(alone)


def test_comparison_uses_only_common_seeds_and_agrees_with_a_one_sample_test_of_the_differences():
    baseline = {0: 0.50, 1: 0.60, 2: 0.55, 9: 0.0}
    rule = {0: 0.53, 1: 0.66, 2: 0.57, 7: 1.0}
    comparison = compare(rule, baseline)
    assert comparison is not None
    assert comparison.difference.n == 3
    assert comparison.difference.mean == pytest.approx((0.03 + 0.06 + 0.02) / 3)
    assert comparison.p == pytest.approx(stats.ttest_1samp([0.03, 0.06, 0.02], 0).pvalue)


def test_comparison_without_common_seeds_is_none_and_equal_runs_differ_by_nothing():
    assert compare({0: 1.0}, {1: 1.0}) is None
    same = compare({0: 1.0, 1: 0.5}, {0: 1.0, 1: 0.5})
    assert same is not None
    assert same.p == 1.0


def test_time_to_reach_is_the_first_measurement_at_the_target():
    curve = [{"s": 1.0, "probe": 0.2}, {"s": 2.0, "probe": 0.5}, {"s": 3.0, "probe": 0.4}]
    assert time_to_reach(curve, 0.4, metric="probe", clock="s") == 2.0
    assert time_to_reach(curve, 0.6, metric="probe", clock="s") is None


def test_holm_keeps_the_order_multiplies_the_smallest_by_all_and_skips_nan():
    assert holm([0.01, 0.04, math.nan, 0.03, 0.005]) == pytest.approx([0.03, 0.06, math.nan, 0.06, 0.02], nan_ok=True)
    assert holm([0.6, 0.9]) == [1.0, 1.0]
