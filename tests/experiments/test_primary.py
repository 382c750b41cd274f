"""The primary comparisons, computed again with another library, and what is said of the aim."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pytest
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower
from statsmodels.stats.weightstats import DescrStatsW

from experiments.analysis.primary import aim_sentence, planned_comparisons, primary_section
from experiments.sweep import Aim, Primary, Question, load_sweep

CONDITIONS = ("digits", "strips", "stamps")
PAIRS = (("pool", "queue"), ("masked", "queue"), ("masked", "pool"))
PRIMARY = Primary(
    questions=tuple(Question(*pair, CONDITIONS) for pair in PAIRS),
    aim=Aim(rule="masked", below={"queue": 0.001, "pool": 0.01}, wins=2, among=CONDITIONS, margin=0.01),
)


@dataclass(frozen=True)
class Trial:
    condition: str
    rule: str
    seed: int


def trials(gains: dict[tuple[str, str], float], *, seeds: int = 24, noise: float = 0.02):
    """Probes about .5 + gain; those of one seed have a part of their noise in common."""
    found = []
    for condition in CONDITIONS:
        common = np.random.default_rng(len(condition)).normal(0, 0.05, size=seeds)
        for number, rule in enumerate(("queue", "pool", "masked")):
            own = np.random.default_rng([number, len(condition)]).normal(0, noise, size=seeds)
            for seed in range(seeds):
                probe = 0.5 + gains.get((condition, rule), 0.0) + common[seed] + own[seed]
                found.append((Trial(condition, rule, seed), {"final": {"probe": probe}}))
    return found


def compared(recorded):
    return planned_comparisons(recorded, PRIMARY.questions, metric="probe")


def test_differences_intervals_and_adjusted_p_agree_with_statsmodels():
    recorded = trials({("digits", "masked"): 0.05, ("strips", "pool"): 0.015})
    found = compared(recorded)
    assert [(f.rule, f.against, f.condition) for f in found] == [(*p, c) for p in PAIRS for c in CONDITIONS]
    probes = {(t.condition, t.rule, t.seed): record["final"]["probe"] for t, record in recorded}
    raw = []
    for f in found:
        pairs = [probes[f.condition, f.rule, s] - probes[f.condition, f.against, s] for s in range(24)]
        other = DescrStatsW(pairs)
        low, high = other.tconfint_mean()
        assert f.comparison.difference.mean == pytest.approx(other.mean)
        assert f.comparison.difference.half_width == pytest.approx((high - low) / 2)
        raw.append(other.ttest_mean()[1])
        assert f.comparison.p == pytest.approx(raw[-1])
    assert [f.adjusted_p for f in found] == pytest.approx(multipletests(raw, method="holm")[1])


def test_a_comparison_that_was_not_run_counts_in_the_adjustment():
    recorded = [(t, r) for t, r in trials({("digits", "masked"): 0.05}) if t.condition == "digits"]
    found = compared(recorded)
    run = [f for f in found if f.comparison is not None]
    assert [f.condition for f in run] == ["digits"] * 3
    smallest = min(run, key=lambda f: f.comparison.p)
    assert smallest.adjusted_p == pytest.approx(9 * smallest.comparison.p)
    section = primary_section(recorded, PRIMARY)
    assert section.count("not run") == 6 + 1
    assert "cannot be decided yet: 4 comparisons were not run" in section


def test_the_aim_needs_enough_wins_and_no_loss():
    wins = {(c, "masked"): 0.06 for c in ("digits", "strips")}
    reached = aim_sentence(compared(trials(wins)), PRIMARY.aim)
    assert "**The aim is reached**" in reached
    assert "in 2 of 3 conditions, of which 2 are needed (digits; strips)" in reached
    lost = aim_sentence(compared(trials(wins | {("stamps", "masked"): -0.03})), PRIMARY.aim)
    assert "not reached" in lost
    assert "stamps against `pool`; stamps against `queue`" in lost
    few = aim_sentence(compared(trials({("digits", "masked"): 0.06})), PRIMARY.aim)
    assert "**The aim is not reached**" in few
    assert "lower by more than 0.01 in none" in few


def test_the_plans_number_of_seeds_has_the_power_that_it_states():
    # Simulated, where the plan computes it: 24 pairs of standard deviation .027, a difference of .0203, p < .01.
    assert TTestPower().solve_power(nobs=24, alpha=0.01, power=0.8) * 0.027 == pytest.approx(0.0203, abs=1e-4)
    rng, found = np.random.default_rng(0), []
    for _ in range(2000):
        differences = rng.normal(0.0203, 0.027, size=24)
        record = [(Trial("digits", rule, s), {"final": {"probe": d}}) for s in range(24) for rule, d in
                  (("queue", 0.5), ("pool", 0.5 + differences[s]))]  # fmt: skip
        single = [Question("pool", "queue", ("digits",))]
        found.append(planned_comparisons(record, single, metric="probe")[0].comparison.p < 0.01)
    assert np.mean(found) == pytest.approx(0.8, abs=0.03)


def test_the_shipped_plan_compares_what_its_sweep_runs():
    sweep = load_sweep("rivals")
    for question in sweep.primary.questions:
        for condition in question.conditions:
            for rule in (question.rule, question.against):
                seeds = {
                    seed
                    for group in sweep.groups.values()
                    if condition in group["conditions"] and rule in group["rules"]
                    for seed in group["seeds"]
                    if seed >= 1000
                }
                assert len(seeds) == 24, (condition, rule)
    assert math.isclose(sweep.primary.aim.below["queue"], 0.001)
