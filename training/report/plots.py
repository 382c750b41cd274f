"""The figure of a report, as a PNG: one panel per group of metrics, one colour per run."""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from typing import Literal

import matplotlib

matplotlib.use("Agg")  # works without a display

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, MaxNLocator, PercentFormatter

from training.report.panels import Panel, colours, panels_of, smoothed
from training.report.runs import Run

COLUMNS = 3
LONGEST_TITLE = 60
"""Number of characters of a panel's title and of a run's name."""
RAW_POINTS = 1500
"""Largest number of points of a thin line of logged values; longer curves are subsampled."""
LineStyle = Literal["-"] | tuple[float, Sequence[float]]
STYLES: tuple[LineStyle, ...] = ("-", (0, (4, 1.5)), (0, (1, 1.2)))


def draw(runs: Sequence[Run], *, title: str) -> bytes:
    """Returns the figure as a PNG file."""
    panels = panels_of(runs)
    rows = -(-len(panels) // COLUMNS)
    with (
        warnings.catch_warnings(),
        plt.rc_context({"font.size": 10, "axes.titlesize": 11, "axes.titleweight": "bold"}),
    ):
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # run names may be in any script
        figure, axes = plt.subplots(
            rows, COLUMNS, figsize=(5.2 * COLUMNS, 3.3 * rows + 1.2), squeeze=False, layout="constrained"
        )
        for axis, panel in zip(axes.flat, panels, strict=False):
            _draw_panel(axis, panel, runs)
        for axis in axes.flat[len(panels) :]:
            axis.set_axis_off()
        _add_title_and_legend(figure, runs, title)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=110)
        plt.close(figure)
    return buffer.getvalue()


def _draw_panel(axis: Axes, panel: Panel, runs: Sequence[Run]) -> None:
    drawn: dict[str, LineStyle] = {}
    for run, colour in zip(runs, colours(len(runs)), strict=True):
        for (metric, meaning), line_style in zip(panel.curves, STYLES, strict=False):
            if metric not in run.curves:
                continue
            steps, values = run.curves[metric]
            shown = smoothed(values) if panel.smooth else values
            if panel.smooth and len(values) >= 60:
                thin = slice(None, None, -(-len(values) // RAW_POINTS))
                axis.plot(steps[thin], values[thin], color=colour, linewidth=0.6, alpha=0.22)
            marker = "o" if len(values) < 30 and metric != "monitor/majority" else None
            axis.plot(steps, shown, color=colour, linestyle=line_style, linewidth=1.6, marker=marker, markersize=3)
            drawn[meaning] = line_style
    _style(axis, panel)
    if len(drawn) > 1:
        handles = [Line2D([], [], color="#444444", linestyle=style) for style in drawn.values()]
        axis.legend(handles, list(drawn), fontsize=8, frameon=False, loc="best", handlelength=2.6)


def _style(axis: Axes, panel: Panel) -> None:
    axis.set_title(_escape(panel.title), loc="left")
    axis.grid(color="#E3E3E3", linewidth=0.7)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)
    axis.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axis.xaxis.set_major_formatter(EngFormatter(sep=""))
    axis.set_xlabel("step", fontsize=9, color="#555555")
    axis.tick_params(labelsize=9, colors="#333333")
    if panel.percent:
        axis.yaxis.set_major_formatter(PercentFormatter(xmax=1, decimals=None))
        axis.set_ylim(bottom=0)
    if panel.log:
        axis.set_yscale("log", nonpositive="mask")


def _add_title_and_legend(figure: Figure, runs: Sequence[Run], title: str) -> None:
    figure.suptitle(_escape(title), x=0.01, ha="left", fontsize=15, fontweight="bold")
    handles = [Line2D([], [], color=colour, linewidth=3) for colour in colours(len(runs))]
    # matplotlib hides entries that begin with an underscore.
    names = [" " + _escape(run.name) for run in runs]
    figure.legend(handles, names, loc="outside upper right", ncols=min(len(runs), 5), frameon=False, fontsize=11)


def _escape(text: str) -> str:
    """Escapes untrusted text, in which "$" must not start a formula."""
    text = text if len(text) <= LONGEST_TITLE else text[: LONGEST_TITLE - 3] + "..."
    return text.replace("$", r"\$")
