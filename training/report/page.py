"""The report as one self-contained, interactive HTML page."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common.files import write_atomically
from common.html import fill_page
from common.terminal import printable
from settings.load import format_value
from training.report.curves import panel_data
from training.report.evaluations import PRETRAINED, RANDOM, Evaluation, cell
from training.report.panels import colours
from training.report.runs import Run
from training.report.words import dictionary_health, warnings_of

ASSETS = Path(__file__).with_name("assets")
LIBRARY = "plotly-basic.min.js"
"""plotly.js 4.1.1 (MIT), the file of npm's plotly.js-basic-dist-min; the page holds all of it."""
LIBRARY_SHA256 = "99784e3abfb07b142a15e521a439e6d9addceadb3f79553fd24c72774f0649ba"
_LONGEST = 2000
"""Number of characters of a setting that are shown."""
_MOST_SCORES = 6
"""Largest number of evaluation scores among the headline numbers of a run."""
HEADLINES = (
    ("loss", "InfoNCE loss, both directions"),
    ("retrieval_v2a", "Retrieval in the batch, video → audio"),
    ("retrieval_a2v", "Retrieval in the batch, audio → video"),
    ("monitor/knn_video", "Online kNN, video"),
    ("monitor/knn_audio", "Online kNN, audio"),
    ("samples_per_second", "Clips per second"),
    ("data_wait", "Time spent waiting for data"),
)
_SHARES = ("retrieval", "monitor/knn", "data_wait")
Cell = str | dict[str, Any]
"""Text, or {"text", "note", "exact"}: a note below it and the unrounded number."""


def write_page(runs: Sequence[Run], path: Path, *, reload_seconds: int = 0) -> None:
    """Writes the page; a browser that shows it loads it again every `reload_seconds` (0: never).

    Raises:
        ReportError: no metric has a finite value.
        OSError: the file cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, build_page(runs, reload_seconds=reload_seconds))


def build_page(runs: Sequence[Run], *, reload_seconds: int = 0) -> str:
    """Returns the HTML; no text of the runs can become markup or script."""
    title = title_of(runs)
    data = page_data(runs) | {"title": title, "reload": reload_seconds}
    return fill_page(ASSETS, title=title, data=data, scripts=(ASSETS / LIBRARY, ASSETS / "app.js"))


def title_of(runs: Sequence[Run]) -> str:
    """Returns the name of the run, or the number of runs."""
    return printable(runs[0].name) if len(runs) == 1 else f"{len(runs)} runs"


def page_data(runs: Sequence[Run]) -> dict[str, Any]:
    """Returns what the page shows, as plain values for JSON; lists of one entry per run are in the order of `runs`."""
    shades = max(len(runs), 3)  # of a single run, the curves of a panel have different ones
    settings = _rows([run.config for run in runs])
    metrics = sorted({metric for run in runs for metric in run.curves}, key=lambda name: ("/" in name, name))
    return {
        "made": time.strftime("%Y-%m-%d %H:%M:%S %Z"),
        "runs": [printable(run.name) for run in runs],
        "colours": {"light": colours(shades), "dark": colours(shades, dark=True)},
        "headline": _headline(runs),
        "warnings": [warnings_of(run) for run in runs],
        "panels": panel_data(runs),
        "health": [dictionary_health(run) for run in runs],
        "evaluations": _evaluations(runs),
        "differing": {key: row for key, row in settings.items() if len(set(row)) > 1},
        "settings": settings,
        "environment": _rows([{k: v for k, v in run.environment.items() if k != "warnings"} for run in runs]),
        "last": {metric: [_number(run.last(metric)) for run in runs] for metric in metrics},
    }


def _headline(runs: Sequence[Run]) -> dict[str, list[Cell]]:
    rows: dict[str, list[Cell]] = {
        "Steps": [_steps(run) for run in runs],
        "Training time": [_duration(run) for run in runs],
    }
    rows |= {label: [_progress(run, metric) for run in runs] for metric, label in HEADLINES}
    scores = [_scores(run) for run in runs]
    for label in list(dict.fromkeys(label for found in scores for label in found))[:_MOST_SCORES]:
        rows[label] = [found.get(label, "–") for found in scores]
    return {label: cells for label, cells in rows.items() if any(cell != "–" for cell in cells)}


def _steps(run: Run) -> Cell:
    done = int(max(steps[-1] for steps, _ in run.curves.values()))
    total = run.environment.get("total_steps")
    known = type(total) is int and done <= total < 2**53
    return {"text": f"{done:,}", "note": f"of {total:,}" if known else "", "exact": str(done)}


def _duration(run: Run) -> str:
    """The time of the steps; measurements and pauses do not count."""
    if "step_seconds" not in run.curves:
        return "–"
    steps, seconds = run.curves["step_seconds"]
    total, before = 0.0, -1.0
    for step, value in zip(steps.tolist(), seconds.tolist(), strict=True):
        total, before = total + (value * (step - before) if math.isfinite(value) else 0.0), step
    if not 0 <= total < 1e9:
        return "–"
    minutes, left = divmod(round(total), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:,} h {minutes} min" if hours else f"{minutes} min {left} s" if minutes else f"{left} s"


def _progress(run: Run, metric: str) -> Cell:
    """The last value, with the first below it."""
    if metric not in run.curves:
        return "–"
    steps, values = run.curves[metric]
    share = metric.startswith(_SHARES)
    note = f"{_format(float(values[0]), share)} at step {steps[0]:,.0f}" if len(values) > 1 else ""
    return {"text": _format(float(values[-1]), share), "note": note, "exact": repr(float(values[-1]))}


def _scores(run: Run) -> dict[str, Cell]:
    """The main figure of each evaluation for the pre-trained encoder, with that of random weights below it."""
    found: dict[str, Cell] = {}
    for evaluation in run.evaluations:
        for row in evaluation.rows:
            if evaluation.score is None or row.get("encoder") != PRETRAINED:
                continue
            group = [str(row[name]) for name in ("modality", "training", "layer") if row.get(name)]
            label = printable(", ".join([f"{evaluation.title}: {evaluation.score}", *group]).replace("_", " "))
            text = cell(row, evaluation.score)
            found[label] = {"text": text, "note": _compared(evaluation, row), "exact": repr(row.get(evaluation.score))}
    return found


def _compared(evaluation: Evaluation, row: dict[str, Any]) -> str:
    same = ("modality", "training", "layer")
    for other in evaluation.rows:
        if other.get("encoder") == RANDOM and all(other.get(name) == row.get(name) for name in same):
            return f"random weights: {cell(other, evaluation.score or '')}"
    return ""


def _evaluations(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """One table per title, in which each run has its rows."""
    tables = []
    for title in dict.fromkeys(evaluation.title for run in runs for evaluation in run.evaluations):
        found = [(n, e) for n, run in enumerate(runs) for e in run.evaluations if e.title == title]
        columns = list(dict.fromkeys(column for _, evaluation in found for column in evaluation.columns))
        rows = [
            {"run": number, "cells": [cell(row, column) for column in columns]}
            for number, evaluation in found
            for row in evaluation.rows
        ]
        notes = list(dict.fromkeys(note for _, evaluation in found for note in evaluation.notes))
        heads = [column.replace("_", " ") for column in columns]
        tables.append({"title": title, "columns": heads, "rows": rows, "notes": notes})
    return tables


def _rows(trees: list[dict[str, Any]]) -> dict[str, list[str]]:
    keys = dict.fromkeys(key for tree in trees for key in tree)
    return {printable(key): [_text(tree[key]) if key in tree else "–" for tree in trees] for key in keys}


def _text(value: Any) -> str:
    if isinstance(value, list):
        return (" ".join(_text(item) for item in value) or "none")[:_LONGEST]
    return printable(value if isinstance(value, str) else format_value(value))[:_LONGEST]


def _number(value: float | None) -> Cell:
    return "–" if value is None else {"text": _format(value), "exact": repr(value)}


def _format(value: float, share: bool = False) -> str:
    if not math.isfinite(value):
        return "not finite"
    if share:
        return f"{100 * value:.1f} %"
    return f"{value:,.0f}" if value.is_integer() and abs(value) < 1e15 else f"{value:.4g}"
