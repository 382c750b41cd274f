"""What a run's numbers say, in words: the state of its dictionaries and what deserves attention."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from training.report.runs import Run

MODALITIES = ("video", "audio")
LONG_WAIT = 0.1
"""Share of the time spent waiting for data from which the page warns."""

MOST_WARNINGS = 10
"""Largest number of warnings from the start of a run that its page shows."""


def dictionary_health(run: Run) -> list[str]:
    """One sentence per statement about the selections and the dictionaries; empty if the run logged none."""
    return [text for modality in MODALITIES for text in _health(run, modality)]


def _health(run: Run, modality: str) -> Iterator[str]:
    picked, missing, duplicates, distinct, classes, phi = (
        _last(run, f"{modality}/{name}")
        for name in ("selected", "missing", "near_duplicates", "distinct_ids", "distinct_classes", "phi")
    )
    parts = []
    if picked is not None and missing is not None:
        parts.append(f"{picked:,.0f} of {picked + missing:,.0f} picks")
    if duplicates is not None:
        parts.append(f"{100 * duplicates:.1f} % near-duplicates")
    if parts:
        yield f"{modality.capitalize()}: {', '.join(parts)} in the last selection that was logged."
    if distinct is not None:
        size = run.config.get("dictionary.size")
        of = f" in {size:,} rows" if isinstance(size, int) and 0 < size < 2**53 else ""
        among = "" if classes is None else f", of {classes:,.0f} classes"
        yield f"The {modality} dictionary holds {distinct:,.0f} distinct clips{of}{among}."
    if phi is not None:
        yield (
            f"The last measured selection leaves {100 * phi:.1f} % of the spread of its {modality} pool uncovered "
            "(lower is better)."
        )


def _last(run: Run, metric: str) -> float | None:
    value = run.last(metric)
    return value if value is not None and math.isfinite(value) else None


def warnings_of(run: Run) -> list[str]:
    """What deserves attention, one sentence each."""
    found = said_at_the_start(run)
    found += [note for note in (not_finite(run), *(_short(run, modality) for modality in MODALITIES)) if note]
    if skipped := _last(run, "skipped_steps"):
        found.append(f"{skipped:,.0f} steps were skipped because the gradient was not finite.")
    if bad := _last(run, "bad_samples"):
        found.append(f"{bad:,.0f} samples could not be read; bad_samples.jsonl lists them.")
    wait = run.recent("data_wait")
    if wait is not None and wait > LONG_WAIT:
        found.append(f"The last steps spent {wait:.0%} of their time waiting for data.")
    return found


def said_at_the_start(run: Run) -> list[str]:
    """What train.py warned of before the first step: settings that do not fit the data."""
    said = run.environment.get("warnings")
    return [text for text in said if isinstance(text, str)][:MOST_WARNINGS] if isinstance(said, list) else []


def not_finite(run: Run) -> str | None:
    """A sentence if values are not finite: curves have gaps there, averages leave them out."""
    bad = {metric: steps[~np.isfinite(values)] for metric, (steps, values) in run.curves.items()}
    bad = {metric: steps for metric, steps in bad.items() if len(steps)}
    if not bad:
        return None
    metric, steps = min(bad.items(), key=lambda item: item[1][0])
    return (
        f"{sum(map(len, bad.values())):,} values are not finite and left out of curves and averages; the first is "
        f"{metric} at step {steps[0]:.0f}."
    )


def notes_on_not_finite(runs: Sequence[Run]) -> list[str]:
    """`not_finite` of all runs, with their names."""
    return [f"{run.name}: {note}" for run in runs if (note := not_finite(run))]


def _short(run: Run, modality: str) -> str | None:
    if f"{modality}/missing" not in run.curves:
        return None
    steps, missing = run.curves[f"{modality}/missing"]
    short = np.flatnonzero(missing > 0)
    if not len(short):
        return None
    return (
        f"{len(short):,} of {len(steps):,} logged selections of {modality} keys picked fewer than they were asked for, "
        f"first at step {steps[short[0]]:.0f}: the pool or the data set is too small for the dictionary."
    )
