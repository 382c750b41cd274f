"""Draws the pictures of README and docs/architecture.md as SVG files beside this script: python docs/pictures/draw.py

Standard library only. The figures come from benchmarks/results/*.json; tests/docs/test_pictures.py fails where a
committed picture is not the one that this script draws.
"""

from __future__ import annotations

import json
from html import escape
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
RESULTS = HERE.parents[1] / "benchmarks" / "results"
OURS, OTHER, LINE, GREY = "#e8710a", "#8ab4f8", "#5f6368", "#5f6368"

PATH = {
    "prepare (once)": [
        ("video file", "any format FFmpeg reads"),
        ("normalise, encode", "pipeline/prepare"),
        ("shard + manifest row", "pipeline/shards"),
    ],
    "load (each step)": [
        ("which samples", "pipeline/plan/order"),
        ("which seconds and crop", "pipeline/plan/clips"),
        ("frames and PCM as bytes", "pipeline/shards"),
        ("decode, resize, log-mel", "pipeline/load"),
        ("Batch", "video, audio, ids"),
    ],
    "choose negatives": [
        ("queries and keys", "model/encoder"),
        ("pool of candidates", "sampler"),
        ("gradient embeddings", "sampler/gradient"),
        ("select", "sampler/rules"),
        ("dictionary", "sampler"),
    ],
    "learn, use": [
        ("symmetric InfoNCE", "model/loss"),
        ("step, momentum update", "training/step"),
        ("checkpoint, metrics", "training/run"),
        ("evaluate, export", "evaluation, export.py"),
    ],
}
"""Lane -> its stations as (what happens, where), in the order in which a sample meets them."""

STORAGES = {
    "h264_256": "H.264 files, 256 pixels",
    "h264_144": "H.264, our size and frame rate",
    "mjpeg_144": "MJPEG, our size and frame rate",
    "shards_vp9_144": "our shards, VP9",
    "shards_jpeg_144": "our shards, JPEG",
}


def text(x: float, y: float, words: str, *, size: int = 13, anchor: str = "middle", more: str = "") -> str:
    return f'<text x="{x:g}" y="{y:g}" font-size="{size}" text-anchor="{anchor}" {more}>{escape(words)}</text>'


def svg(width: int, height: int, parts: list[str]) -> str:
    """A complete SVG file with a white background, so that it can be read on dark pages too."""
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
    marker = (
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" orient="auto">'
        f'<path d="M0 0L8 4L0 8z" fill="{LINE}"/></marker></defs>'
    )
    background = f'<rect width="{width}" height="{height}" fill="white"/>'
    return "\n".join([f'{head} font-family="sans-serif">', marker, background, *parts, "</svg>", ""])


def path_of_a_sample() -> str:
    """The path of a sample from video file to trained model: a lane per stage and a box per station."""
    box, tall, gap, lane = 178, 50, 30, 86
    left = 165
    parts = []
    for row, (name, stations) in enumerate(PATH.items()):
        y = 20 + row * lane
        parts.append(text(12, y + tall / 2 + 5, name, size=14, anchor="start", more='font-weight="bold"'))
        for column, (title, where) in enumerate(stations):
            x = left + column * (box + gap)
            parts.append(
                f'<rect x="{x}" y="{y}" width="{box}" height="{tall}" rx="6" fill="#eef3fc" stroke="{OTHER}"/>'
            )
            parts.append(text(x + box / 2, y + 21, title))
            parts.append(text(x + box / 2, y + 39, where, size=11, more=f'fill="{GREY}"'))
            if column:
                parts.append(_arrow(f"M{x - gap} {y + tall / 2:g}H{x - 2}"))
        if row:
            start = left + (len(list(PATH.values())[row - 1]) - 1) * (box + gap) + box / 2
            turn = y - (lane - tall) / 2
            parts.append(_arrow(f"M{start:g} {y - lane + tall}V{turn:g}H{left + box / 2:g}V{y - 2}"))
    return svg(left + 5 * box + 4 * gap + 12, 20 + len(PATH) * lane - lane + tall + 20, parts)


def _arrow(path: str) -> str:
    return f'<path d="{path}" fill="none" stroke="{LINE}" marker-end="url(#tip)"/>'


def bars(title: str, rows: list[tuple[str, float, str, bool]], *, label_width: int) -> str:
    """Horizontal bars; each row is (label, length in any unit, text at the end of the bar, whether it is ours)."""
    width, step = 640, 26
    scale = (width - label_width - 110) / max(length for _, length, _, _ in rows)
    parts = [text(12, 24, title, size=14, anchor="start", more='font-weight="bold"')]
    for number, (label, length, note, ours) in enumerate(rows):
        y = 40 + number * step
        parts.append(text(label_width, y + 15, label, size=12, anchor="end"))
        parts.append(
            f'<rect x="{label_width + 8}" y="{y}" width="{length * scale:.1f}" height="{step - 6}" '
            f'fill="{OURS if ours else OTHER}"/>'
        )
        parts.append(text(label_width + 14 + length * scale, y + 15, note, size=12, anchor="start"))
    return svg(width, 48 + len(rows) * step, parts)


def throughput(result: dict[str, Any]) -> str:
    """The fastest loader on each kind of storage, on two CPU cores."""
    rows = []
    for storage, words in STORAGES.items():
        records = [r for r in result["records"] if r["storage"] == storage and "failed" not in r]
        best = max(records, key=lambda record: record["clips_per_second"])
        ours, rate = best["loader"] == "ours", best["clips_per_second"]
        name = words if ours else f"{best['loader'].partition('_')[0]}: {words}"
        rows.append((name, rate, f"{rate:.0f} clips/s", ours))
    return bars("Clips per second on two CPU cores, fastest loader on each storage", rows, label_width=290)


def probe(result: dict[str, Any]) -> str:
    """What the quickstart learns: accuracy of a linear probe on the video features."""
    rows = []
    for label in ("kind", "speed"):
        for row in result[label]["rows"]:
            if row["modality"] != "audio":
                figure = f"{row['accuracy']:.2f} ± {row['standard_error']:.2f}"
                name = f"{label} of the object: {row['encoder']}"
                rows.append((name, row["accuracy"], figure, row["encoder"] == "pre-trained"))
    return bars("Quickstart: accuracy of a linear probe on frozen video features", rows, label_width=260)


def pictures() -> dict[str, str]:
    """File name -> SVG."""
    decode, quickstart = (json.loads((RESULTS / f"{name}.json").read_text()) for name in ("decode", "quickstart"))
    return {
        "sample.svg": path_of_a_sample(),
        "throughput.svg": throughput(decode),
        "quickstart.svg": probe(quickstart),
    }


if __name__ == "__main__":
    for name, picture in pictures().items():
        (HERE / name).write_text(picture, encoding="utf-8")
