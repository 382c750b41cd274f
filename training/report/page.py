"""The report as a PNG image and as a self-contained HTML page."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from common.html import data_uri
from common.terminal import print_error, printable
from settings.load import format_value
from training.report.plots import colours, draw
from training.report.runs import Run

_LONGEST = 2000
"""Number of characters of a setting that are shown."""
STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; color: #222; max-width: 1500px; margin: 2em auto; padding: 0 1.5em; }
h1 { font-size: 1.6em; margin-bottom: .2em; } h2 { font-size: 1.15em; margin: 2em 0 .5em; }
img { width: 100%; height: auto; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .92em; }
th, td { text-align: left; padding: .28em 1.2em .28em 0; border-bottom: 1px solid #e6e6e6; vertical-align: top; }
td { overflow-wrap: anywhere; max-width: 42em; font-variant-numeric: tabular-nums; }
th.key, td.key { color: #555; white-space: nowrap; font-weight: normal; }
.swatch { display: inline-block; width: 1em; height: .35em; margin-right: .5em; vertical-align: middle; }
.note { color: #666; }
"""


def write_report(runs: Sequence[Run], out: Path) -> list[Path]:
    """Writes OUT.png and OUT.html and returns their paths."""
    for note in notes_on_not_finite(runs):
        print_error("report", note)
    title = runs[0].name if len(runs) == 1 else f"{len(runs)} runs"
    images = draw(runs, title=title)
    stem = out.with_suffix("") if out.suffix in (".html", ".png") else out
    stem.parent.mkdir(parents=True, exist_ok=True)
    png, page = stem.with_name(stem.name + ".png"), stem.with_name(stem.name + ".html")
    png.write_bytes(images["png"])
    page.write_text(build_page(runs, title=title, svg=images["svg"]), encoding="utf-8")
    return [png, page]


def build_page(runs: Sequence[Run], *, title: str, svg: bytes) -> str:
    """Builds a self-contained HTML document; everything that comes from the runs is escaped."""
    metrics = sorted({metric for run in runs for metric in run.curves}, key=lambda name: ("/" in name, name))
    last = {metric: [_number(run.last(metric)) for run in runs] for metric in metrics}
    last = {"step": [_number(max(steps[-1] for steps, _ in run.curves.values())) for run in runs]} | last
    config = _rows([run.config for run in runs])
    differing = {key: row for key, row in config.items() if len(set(row)) > 1}
    parts = [
        f"<h1>{html.escape(title)}</h1>",
        f'<img alt="curves" src="{data_uri("image/svg+xml", svg)}">',
        '<p class="note">Thick lines are averages over a thirtieth of the curve, thin lines the logged values.</p>',
        "<h2>Last values</h2>",
        _table(runs, last),
        *(f'<p class="note">{html.escape(note)}</p>' for note in notes_on_not_finite(runs)),
    ]
    if len(runs) > 1:
        parts += ["<h2>Settings that differ</h2>", _table(runs, differing) if differing else "<p>None.</p>"]
    if environment := _rows([run.environment for run in runs]):
        parts += ["<h2>Environment</h2>", _table(runs, environment)]
    if config:
        parts += ["<details><summary>All settings</summary>", _table(runs, config), "</details>"]
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f"<style>{STYLE}</style></head><body>\n" + "\n".join(parts) + "\n</body></html>\n"
    )


def notes_on_not_finite(runs: Sequence[Run]) -> list[str]:
    """One sentence per run that has values which are not finite: curves have gaps there, averages leave them out."""
    notes = []
    for run in runs:
        bad = {metric: steps[~np.isfinite(values)] for metric, (steps, values) in run.curves.items()}
        bad = {metric: steps for metric, steps in bad.items() if len(steps)}
        if bad:
            metric, steps = min(bad.items(), key=lambda item: item[1][0])
            notes.append(
                f"{run.name}: {sum(map(len, bad.values())):,} values are not finite and left out of curves and "
                f"averages; the first is {metric} at step {steps[0]:.0f}."
            )
    return notes


def _rows(trees: list[dict[str, Any]]) -> dict[str, list[str]]:
    keys = dict.fromkeys(key for tree in trees for key in tree)
    return {key: [_text(tree[key]) if key in tree else "–" for tree in trees] for key in keys}


def _text(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(_text(item) for item in value) or "none"
    return printable(value if isinstance(value, str) else format_value(value))[:_LONGEST]


def _number(value: float | None) -> str:
    if value is None:
        return "–"
    if not math.isfinite(value):
        return "not finite"
    return f"{value:,.0f}" if value.is_integer() and abs(value) < 1e15 else f"{value:.4g}"


def _table(runs: Sequence[Run], rows: dict[str, list[str]]) -> str:
    heads = "".join(
        f'<th><span class="swatch" style="background:{colour}"></span>{html.escape(run.name)}</th>'
        for run, colour in zip(runs, colours(len(runs)), strict=True)
    )
    body = "".join(
        f'<tr><td class="key">{html.escape(str(key))}</td>'
        + "".join(f"<td>{html.escape(text)}</td>" for text in texts)
        + "</tr>\n"
        for key, texts in rows.items()
    )
    return f'<div class="wide"><table><tr><th class="key"></th>{heads}</tr>\n{body}</table></div>'
