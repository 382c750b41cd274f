"""Summarises recorded trials as the figures that the tables, plots and sentences of a page show."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from common.finite import require_finite_figures
from experiments.analysis.statistics import Comparison, Estimate, compare, estimate, holm, time_to_reach
from experiments.sweep import Planned

ALPHA = 0.01
"""A difference is claimed only if its p is below this."""


@dataclass(frozen=True)
class Row:
    """One rule in one condition."""

    rule: str
    figures: dict[str, Estimate]
    """Final value of each metric, as an estimate over the seeds."""
    against: dict[str, Comparison | None]
    """Metric -> difference to the baseline, paired by seed; empty for the baseline itself."""
    curve: dict[str, np.ndarray]
    """Means over the seeds of step, cpu_seconds, probe, ... at each measurement."""
    reaches: dict[str, float | None]
    """Clock (step or cpu_seconds) -> share of the baseline's run after which this rule's mean curve first reaches the
    baseline's mean final probe; None if it never does. The dictionary is empty without curves, and has cpu_seconds only
    if all compared trials ran on one kind of machine and one commit."""
    adjusted_p: float = math.nan
    """The p of the comparison by `metric`, Holm-adjusted for all such comparisons of the experiment."""


def summarise(
    trials: Iterable[tuple[Planned, dict[str, Any]]], *, baseline: str, metric: str = "probe"
) -> dict[str, list[Row]]:
    """The rows of each condition, in the order of the sweep.

    Args:
        trials: trials and their records. A trial in several groups counts once, because means are over seeds.
        metric: the figure by which rules are compared.

    Raises:
        NotFiniteError: a recorded figure is not finite; the message names the trial and the figure.
    """
    table: dict[str, dict[str, dict[int, dict[str, Any]]]] = defaultdict(lambda: defaultdict(dict))
    for trial, record in trials:
        require_finite_figures(
            {"final": record["final"], "curve": record["curve"]},
            f"the recorded figures of {trial.condition} | {trial.rule} | seed {trial.seed}",
        )
        table[trial.condition][trial.rule][trial.seed] = record
    rows = [
        (condition, _row(rule, seeds, rules.get(baseline, {}), baseline, metric))
        for condition, rules in table.items()
        for rule, seeds in rules.items()
    ]
    compared = (row.against.get(metric) for _, row in rows)
    adjusted = holm([math.nan if comparison is None else comparison.p for comparison in compared])
    found: dict[str, list[Row]] = defaultdict(list)
    for (condition, row), p in zip(rows, adjusted, strict=True):
        found[condition].append(replace(row, adjusted_p=p))
    return dict(found)


def _row(
    rule: str,
    seeds: Mapping[int, dict[str, Any]],
    base: Mapping[int, dict[str, Any]],
    baseline: str,
    metric: str,
) -> Row:
    finals = {seed: record["final"] for seed, record in seeds.items()}
    names = [name for name in next(iter(finals.values())) if all(name in final for final in finals.values())]
    against: dict[str, Comparison | None] = {}
    if rule != baseline:
        against = {
            name: compare(
                {s: f[name] for s, f in finals.items()},
                {s: r["final"][name] for s, r in base.items() if name in r["final"]},
            )
            for name in names
        }
    # Speed, like everything else, is compared at the common seeds.
    common = sorted(set(seeds) & set(base))
    return Row(
        rule=rule,
        figures={name: estimate([final[name] for final in finals.values()]) for name in names},
        against=against,
        curve=_mean_curve(list(seeds.values())),
        reaches=_reaches([seeds[s] for s in common], [base[s] for s in common], metric),
    )


def _reaches(
    own: Sequence[Mapping[str, Any]], base: Sequence[Mapping[str, Any]], metric: str
) -> dict[str, float | None]:
    """`Row.reaches` for trials with the same seeds."""
    if not own or len(own[0]["curve"]) < 2:
        return {}
    reference, mean = _mean_curve(base), _mean_curve(own)
    points = [{name: values[i] for name, values in mean.items()} for i in range(len(mean["step"]))]
    clocks = ["step", "cpu_seconds"] if len({_machine(record) for record in [*own, *base]}) == 1 else ["step"]
    found: dict[str, float | None] = {}
    for clock in clocks:
        at = time_to_reach(points, reference[metric][-1], metric=metric, clock=clock)
        found[clock] = None if at is None else float(at / reference[clock][-1])
    return found


def _machine(record: Mapping[str, Any]) -> tuple[Any, ...]:
    """A key for machine and commit: seconds are comparable only between records with equal keys."""
    here = record["environment"]
    return tuple(here.get(name) for name in ("cpu", "cpu_capability", "gpu", "commit"))


def _mean_curve(records: Sequence[Mapping[str, Any]]) -> dict[str, np.ndarray]:
    names = records[0]["curve"][0]
    return {name: np.mean([[point[name] for point in r["curve"]] for r in records], axis=0) for name in names}


def sentences(condition: str, rows: Sequence[Row], *, baseline: str, metric: str = "probe") -> list[str]:
    """One sentence per rule that claims only what the data support: a difference with p < 0.01, or none."""
    found = []
    for row in rows:
        comparison = row.against.get(metric)
        if comparison is None:
            continue
        difference, n = comparison.difference, comparison.difference.n
        if n < 5:
            verdict = f"differs from `{baseline}` by {difference} with {n} seed{'s' * (n > 1)}: too few for a claim"
        elif ALPHA <= comparison.p < 0.05:
            # The 95 % interval excludes 0, so "shows no difference" would be misleading.
            verdict = f"differs from `{baseline}` by {difference} (p = {comparison.p:.2g}, {n} seeds), "
            verdict += f"which misses the criterion for a claim (p < {ALPHA})"
        elif comparison.p >= ALPHA:
            verdict = f"shows no difference from `{baseline}` ({difference}, p = {comparison.p:.2g}, {n} seeds)"
        else:
            word = "beats" if difference.mean > 0 else "is worse than"
            verdict = f"**{word} `{baseline}`** by {difference} (p = {comparison.p:.1g}, {n} seeds; "
            verdict += f"{row.adjusted_p:.1g} for all comparisons of the experiment at once)"
            verdict += _speed(row, baseline) if difference.mean > 0 else ""
        found.append(f"{condition}: `{row.rule}` {verdict}.")
    return found


def _speed(row: Row, baseline: str) -> str:
    step, cpu = row.reaches.get("step"), row.reaches.get("cpu_seconds")
    if step is None:
        return ""
    seconds = "" if cpu is None else f" and {cpu:.0%} of its CPU seconds"
    return f"; it reaches the final probe of `{baseline}` after {step:.0%} of its steps{seconds}"
