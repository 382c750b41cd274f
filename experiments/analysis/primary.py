"""The comparisons that a sweep fixed before its trials were run, and whether they reach its aim."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from common.markdown import markdown_table
from experiments.analysis.statistics import Comparison, compare, holm
from experiments.sweep import Aim, Planned, Primary, Question


@dataclass(frozen=True)
class PlannedComparison:
    """One comparison of a plan."""

    condition: str
    rule: str
    against: str
    comparison: Comparison | None
    """The difference rule - against, paired by seed; None without common seeds."""
    adjusted_p: float = math.nan
    """The p, Holm-adjusted for all comparisons of the list, also for those that were not run yet."""


def planned_comparisons(
    trials: Iterable[tuple[Planned, dict[str, Any]]], questions: Sequence[Question], *, metric: str
) -> list[PlannedComparison]:
    """Compares the final figures `metric` of recorded trials.

    A comparison without trials counts in the adjustment as one with p = 1, so that p values can only fall as a plan is
    completed.
    """
    finals: dict[tuple[str, str], dict[int, float]] = {}
    for trial, record in trials:
        if metric in record["final"]:
            finals.setdefault((trial.condition, trial.rule), {})[trial.seed] = record["final"][metric]
    found = [
        PlannedComparison(c, q.rule, q.against, compare(finals.get((c, q.rule), {}), finals.get((c, q.against), {})))
        for q in questions
        for c in q.conditions
    ]
    p_values = [1.0 if f.comparison is None or math.isnan(f.comparison.p) else f.comparison.p for f in found]
    return [replace(f, adjusted_p=p) for f, p in zip(found, holm(p_values), strict=True)]


def primary_section(trials: Sequence[tuple[Planned, dict[str, Any]]], primary: Primary) -> str:
    """The tables of the planned comparisons and the sentence about the aim, in Markdown."""
    first = planned_comparisons(trials, primary.questions, metric=primary.metric)
    parts = [
        "## Primary comparisons\n",
        "Fixed before the first trial on test seeds; **p, all** is adjusted for all of them (Holm).\n",
        _table(first, primary.metric),
    ]
    if primary.aim.rule:
        parts.append(aim_sentence(first, primary.aim) + "\n")
    if primary.secondary:
        second = planned_comparisons(trials, primary.secondary, metric=primary.metric)
        parts += ["## Secondary comparisons\n", "Estimates; adjusted separately.\n", _table(second, primary.metric)]
    return "\n".join(parts)


def _table(found: Sequence[PlannedComparison], metric: str) -> str:
    lines = []
    for f in found:
        cells = ["", "not run", "", ""]
        if f.comparison is not None:
            difference = f.comparison.difference
            cells = [str(difference.n), str(difference), f"{f.comparison.p:.2g}", f"{f.adjusted_p:.2g}"]
        lines.append([f"`{f.rule}` − `{f.against}`", f.condition, *cells])
    return markdown_table(["comparison", "condition", "seeds", metric, "p", "p, all"], lines)


def aim_sentence(found: Sequence[PlannedComparison], aim: Aim) -> str:
    """Says in how many conditions the aim's rule wins, and where it loses."""
    own = {(f.condition, f.against): f for f in found if f.rule == aim.rule and f.comparison is not None}
    conditions = list(dict.fromkeys(f.condition for f in found if f.rule == aim.rule))
    needed = {(c, against) for c in conditions for against in aim.below}
    if not needed <= own.keys():
        return f"The aim for `{aim.rule}` cannot be decided yet: {len(needed - own.keys())} comparisons were not run."
    wins = [c for c in aim.among if all(_wins(own[c, against], p) for against, p in aim.below.items())]
    losses = [
        f"{condition} against `{against}`"
        for condition, against in sorted(needed)
        if own[condition, against].comparison.difference.mean < -aim.margin  # type: ignore[union-attr]
    ]
    won = f" ({'; '.join(wins)})" if wins else ""
    limits = " and ".join(f"`{against}` with p < {p}" for against, p in aim.below.items())
    reached = len(wins) >= aim.wins and not losses
    return (
        f"**The aim is {'reached' if reached else 'not reached'}**: `{aim.rule}` beats {limits} in "
        f"{len(wins)} of {len(aim.among)} conditions, of which {aim.wins} are needed"
        f"{won}, and its mean is lower by more than {aim.margin} in "
        f"{'; '.join(losses) if losses else 'none'}."
    )


def _wins(found: PlannedComparison, limit: float) -> bool:
    assert found.comparison is not None
    return found.comparison.difference.mean > 0 and found.comparison.p < limit
