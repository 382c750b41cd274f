"""Plots an experiment."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
import numpy as np

from experiments.analysis.summary import Row

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

Colours = Mapping[str, tuple[float, ...]]


def plot_experiment(conditions: Mapping[str, Sequence[Row]], path: Path, *, metric: str = "probe") -> None:
    """Plots the final values of each condition with 95 % intervals and, beside them, any mean curves."""
    curves = max(len(row.curve["step"]) for rows in conditions.values() for row in rows) > 2
    lines = len(conditions) if curves else math.ceil(len(conditions) / 2)
    figure, axes = plt.subplots(lines, 2, squeeze=False, figsize=(10, 2.6 * lines), constrained_layout=True)
    colours = _colours(conditions)
    panels = iter(axes.flat)
    for condition, rows in conditions.items():
        _plot_finals(next(panels), condition, rows, colours, metric)
        if curves:
            _plot_curves(next(panels), rows, colours, metric)
    for panel in panels:
        panel.set_axis_off()
    path.parent.mkdir(parents=True, exist_ok=True)
    # Without metadata the same results give the same file.
    figure.savefig(path, dpi=100, metadata={"Software": None})
    plt.close(figure)


def _plot_finals(panel: Axes, condition: str, rows: Sequence[Row], colours: Colours, metric: str) -> None:
    for place, row in enumerate(reversed(rows)):
        value = row.figures[metric]
        half = 0.0 if np.isnan(value.half_width) else value.half_width
        panel.errorbar(value.mean, place, xerr=half, fmt="o", capsize=3, color=colours[row.rule])
    labels = [f"{row.rule} ({row.figures[metric].n})" for row in reversed(rows)]
    panel.set_yticks(range(len(rows)), labels, fontsize="small")
    panel.set_ylim(-0.5, len(rows) - 0.5)
    panel.locator_params(axis="x", nbins=6)
    panel.set_title(condition, fontsize="medium")
    panel.set_xlabel(f"{metric} at the end, 95 % interval (seeds)", fontsize="small")


def _plot_curves(panel: Axes, rows: Sequence[Row], colours: Colours, metric: str) -> None:
    for row in rows:
        panel.plot(row.curve["step"], row.curve[metric], marker=".", color=colours[row.rule], label=row.rule)
    panel.set_xlabel("step", fontsize="small")
    panel.set_ylabel(f"mean {metric}", fontsize="small")
    panel.legend(fontsize="x-small")


def _colours(conditions: Mapping[str, Sequence[Row]]) -> Colours:
    rules = list(dict.fromkeys(row.rule for rows in conditions.values() for row in rows))
    return {rule: plt.get_cmap("tab10")(number % 10) for number, rule in enumerate(rules)}
