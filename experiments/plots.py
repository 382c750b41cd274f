"""The plot of an experiment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
import numpy as np

from experiments.summary import Row

matplotlib.use("Agg")
import matplotlib.pyplot as plt


def plot_experiment(conditions: Mapping[str, Sequence[Row]], path: Path, *, metric: str = "probe") -> None:
    """A line of panels a condition: final value with its 95 % interval, and the mean curve over CPU seconds."""
    figure, axes = plt.subplots(len(conditions), 2, squeeze=False, figsize=(10, 3.2 * len(conditions)))
    colours = _colours(conditions)
    for (condition, rows), (final, curve) in zip(conditions.items(), axes, strict=True):
        for place, row in enumerate(reversed(rows)):
            value = row.figures[metric]
            half = 0.0 if np.isnan(value.half_width) else value.half_width
            final.errorbar(value.mean, place, xerr=half, fmt="o", capsize=3, color=colours[row.rule])
            curve.plot(row.curve["cpu_seconds"], row.curve[metric], marker=".", color=colours[row.rule], label=row.rule)
        final.set_yticks(range(len(rows)), [f"{r.rule} ({r.figures[metric].n})" for r in reversed(rows)])
        final.set_ylim(-0.5, len(rows) - 0.5)
        final.set(title=f"{condition}: {metric} at the end, 95 % interval (seeds)")
        curve.set(title=f"{condition}: mean {metric} over training", xlabel="CPU seconds")
        curve.legend(fontsize="x-small")
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    # No date inside: the same results give the same file.
    figure.savefig(path, dpi=100, metadata={"Software": None})
    plt.close(figure)


def _colours(conditions: Mapping[str, Sequence[Row]]) -> dict[str, tuple[float, ...]]:
    rules = list(dict.fromkeys(row.rule for rows in conditions.values() for row in rows))
    return {rule: plt.get_cmap("tab10")(number % 10) for number, rule in enumerate(rules)}
