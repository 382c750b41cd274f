"""What a report draws: panels of related metrics, and their colours."""

from __future__ import annotations

import colorsys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from common.terminal import print_error
from settings.load import format_names
from training.report.runs import ReportError, Run

MAX_PANELS = 60
NOT_DRAWN = {"epoch", "loss", "bad_samples", "monitor/seconds"}
"""Metrics that have no panel of their own: they follow from others or from the step."""
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#4D4D4D")
"""Okabe and Ito's colours, which colour-blind readers can distinguish; if there are more runs, all colours come from
evenly spaced hues."""


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
    Panel(
        "Near-duplicates among the picks",
        (("video/near_duplicates", "video"), ("audio/near_duplicates", "audio")),
        percent=True,
        smooth=False,
    ),
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
    further += _mix_panels(sorted({metric for run in runs for metric in run.curves if metric.startswith("mix/")}))
    grouped = {metric for panel in further for metric, _ in panel.curves}
    others = {metric for run in runs for metric in run.curves} - known - grouped - NOT_DRAWN
    others = {metric for metric in others if not (metric.startswith("mix/") and metric.endswith("/samples"))}
    further += [Panel(metric, ((metric, ""),)) for metric in sorted(others)]
    shown = [panel for panel in (*PANELS, *further) if _has_something(panel, runs)]
    if not shown:
        recorded = format_names(sorted({metric for run in runs for metric in run.curves})[:10])
        raise ReportError(f"there is nothing to draw: no metric ({recorded}) has a finite value")
    if len(shown) > MAX_PANELS:
        print_error("report", f"{len(shown)} metrics; {MAX_PANELS} panels are drawn, the page lists the others")
    return shown[:MAX_PANELS]


def _mix_panels(metrics: Sequence[str]) -> list[Panel]:
    """The panels of the metrics mix/NAME/share and mix/NAME/passes, with at most three data sets each."""
    panels = []
    for title, ending in (("Share of the samples so far", "share"), ("Passes through the data sets", "passes")):
        curves = [(metric, metric.split("/")[1]) for metric in metrics if metric.endswith(f"/{ending}")]
        for first in range(0, len(curves), 3):
            panels.append(Panel(title, tuple(curves[first : first + 3]), percent=ending == "share", smooth=False))
    return panels


def colours(count: int, *, dark: bool = False) -> list[str]:
    """Returns a colour for each of `count` runs, as #rrggbb; lighter ones for a dark background."""
    if count <= len(COLOURS):
        parts = [tuple(int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5)) for colour in COLOURS[:count]]
    else:
        parts = [colorsys.hls_to_rgb(k / count, (0.36, 0.48)[k % 2], 0.75) for k in range(count)]
    white = 0.4 if dark else 0.0
    return ["#" + "".join(f"{round(255 * (part + white * (1 - part))):02x}" for part in rgb) for rgb in parts]


def smoothed(values: np.ndarray, rows: Iterable[int] | None = None) -> np.ndarray:
    """Averages the finite values in a centred window (no lag) of about a thirtieth of the curve; [n] -> [n].

    Args:
        rows: the rows for which averages are wanted (default: all).
    """
    half = len(values) // 60
    finite = np.isfinite(values)
    windows = (slice(max(row - half, 0), row + half + 1) for row in (range(len(values)) if rows is None else rows))
    with np.errstate(over="ignore"):
        return np.array([values[w][finite[w]].mean() if finite[w].any() else np.nan for w in windows])


def _has_something(panel: Panel, runs: Sequence[Run]) -> bool:
    present = [run.curves[metric][1] for run in runs for metric, _ in panel.curves if metric in run.curves]
    if not panel.nonzero:
        return any(np.isfinite(values).any() for values in present)
    return any((np.isfinite(values) & (values != 0)).any() for values in present)
