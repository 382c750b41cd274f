"""The figure of a report: one panel per group of metrics, one colour per run."""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import matplotlib

matplotlib.use("Agg")  # works without a display

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, MaxNLocator, PercentFormatter

from common.terminal import print_error
from settings.load import format_names
from training.report.runs import ReportError, Run

COLUMNS = 3
MAX_PANELS = 60
LONGEST_TITLE = 60
"""Number of characters of a panel's title and of a run's name."""
NOT_DRAWN = {"epoch", "loss", "bad_samples", "monitor/seconds"}
"""Metrics that have no panel of their own: they follow from others or from the step."""
RAW_POINTS = 1500
"""Largest number of points of a thin line of logged values; longer curves are subsampled."""
LineStyle = Literal["-"] | tuple[float, Sequence[float]]
STYLES: tuple[LineStyle, ...] = ("-", (0, (4, 1.5)), (0, (1, 1.2)))
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#4D4D4D")
"""Okabe and Ito's colours, which colour-blind readers can distinguish; if there are more runs, all colours come from a
colour map."""


@dataclass(frozen=True)
class Panel:
    """A group of related curves; curves that no run has are omitted."""

    title: str
    curves: tuple[tuple[str, str], ...]
    """Pairs (metric, label of its line style); the n-th pair has the n-th line style."""
    percent: bool = False
    log: bool = False
    smooth: bool = True
    nonzero: bool = False
    """Draw the panel only if some value is not zero."""


DIRECTIONS, MODALITIES = ("video → audio", "audio → video"), ("video", "audio")
PANELS = (
    Panel("InfoNCE loss", (("loss_v2a", DIRECTIONS[0]), ("loss_a2v", DIRECTIONS[1]))),
    Panel(
        "Retrieval within the batch", (("retrieval_v2a", DIRECTIONS[0]), ("retrieval_a2v", DIRECTIONS[1])), percent=True
    ),
    Panel(
        "Positive ranks above the entire dictionary",
        (("accuracy_v2a", DIRECTIONS[0]), ("accuracy_a2v", DIRECTIONS[1])),
        percent=True,
    ),
    Panel(
        "Online kNN accuracy",
        (("monitor/knn_video", "video"), ("monitor/knn_audio", "audio"), ("monitor/majority", "majority class")),
        percent=True,
        smooth=False,
    ),
    Panel(
        "Effective rank of the embeddings",
        (("monitor/rank_video", "video"), ("monitor/rank_audio", "audio")),
        smooth=False,
    ),
    Panel("Distinct clips in the dictionary", (("video/distinct_ids", "video"), ("audio/distinct_ids", "audio"))),
    Panel("Learning rate", (("lr", ""),), smooth=False),
    Panel("Gradient norm", (("grad_norm", ""),), log=True),
    Panel("Steps skipped (not finite)", (("skipped_steps", ""),), smooth=False, nonzero=True),
    Panel("Clips per second", (("samples_per_second", ""),)),
    Panel("Seconds per step", (("step_seconds", "rank 0"), ("step_seconds_max", "slowest rank"))),
    Panel(
        "Share of the step spent waiting for data",
        (("data_wait", "rank 0"), ("data_wait_max", "slowest rank")),
        percent=True,
    ),
    Panel("Seconds per selection", (("video/seconds", "video"), ("audio/seconds", "audio"))),
)


def panels_of(runs: Sequence[Run]) -> list[Panel]:
    """Returns the panels with something to show, then one for each further metric of the samplers, then of others.

    Raises:
        ReportError: no metric has a finite value.
    """
    known = {metric for panel in PANELS for metric, _ in panel.curves}
    names = {
        metric.partition("/")[2] for run in runs for metric in run.curves if metric.startswith(("video/", "audio/"))
    }
    further = [
        Panel(
            f"Sampler: {name.replace('_', ' ')}",
            tuple((f"{modality}/{name}", modality) for modality in MODALITIES),
            nonzero=True,
        )
        for name in sorted(names)
        if f"video/{name}" not in known
    ]
    sampler = {metric for panel in further for metric, _ in panel.curves}
    others = {metric for run in runs for metric in run.curves} - known - sampler - NOT_DRAWN
    further += [Panel(metric, ((metric, ""),)) for metric in sorted(others)]
    shown = [panel for panel in (*PANELS, *further) if _has_something(panel, runs)]
    if not shown:
        recorded = format_names(sorted({metric for run in runs for metric in run.curves})[:10])
        raise ReportError(f"there is nothing to draw: no metric ({recorded}) has a finite value")
    if len(shown) > MAX_PANELS:
        print_error("report", f"{len(shown)} metrics; {MAX_PANELS} panels are drawn, the page lists the others")
    return shown[:MAX_PANELS]


def draw(runs: Sequence[Run], *, title: str) -> dict[str, bytes]:
    """Returns the figure as {"png": bytes, "svg": bytes}."""
    panels = panels_of(runs)
    rows = -(-len(panels) // COLUMNS)
    files = {}
    with (
        warnings.catch_warnings(),
        plt.rc_context({"font.size": 10, "axes.titlesize": 11, "axes.titleweight": "bold", "svg.hashsalt": "report"}),
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
        for kind, metadata in (("png", {}), ("svg", {"Date": None})):
            buffer = io.BytesIO()
            figure.savefig(buffer, format=kind, dpi=110, metadata=metadata)
            files[kind] = buffer.getvalue()
        plt.close(figure)
    return files


def colours(count: int) -> list[str]:
    """Returns a colour for each of `count` runs, as #rrggbb."""
    if count <= len(COLOURS):
        return list(COLOURS[:count])
    return [matplotlib.colors.to_hex(c) for c in matplotlib.colormaps["turbo"](np.linspace(0.05, 0.95, count))]


def smoothed(values: np.ndarray) -> np.ndarray:
    """Averages the finite values in a centred window (no lag) of about a thirtieth of the curve; [n] -> [n]."""
    width = 2 * (len(values) // 60) + 1
    finite = np.isfinite(values)
    window = np.ones(width)
    total = np.convolve(np.where(finite, values, 0.0), window, mode="same")
    count = np.convolve(finite.astype(float), window, mode="same")
    return np.where(count > 0.5, total / np.maximum(count, 1), np.nan)


def _has_something(panel: Panel, runs: Sequence[Run]) -> bool:
    present = [run.curves[metric][1] for run in runs for metric, _ in panel.curves if metric in run.curves]
    if not panel.nonzero:
        return any(np.isfinite(values).any() for values in present)
    return any((np.isfinite(values) & (values != 0)).any() for values in present)


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
