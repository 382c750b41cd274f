"""Draws some clips with their nearest neighbours in the other modality: a still picture of what the page shows."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure

from evaluation.explore.page import Page

ROWS, FOUND = 6, 6
"""Number of queries per direction, and of neighbours per query."""
CELL_INCHES, TEXT_INCHES, HEAD_INCHES = 0.9, 0.3, 0.6
OWN = "#009E73"
"""Colour of the frame around the query's own clip."""
DIRECTIONS = {("audio", "video"): "Sound", ("video", "audio"): "Video"}
NAMES = {"audio": "sounds", "video": "videos"}
LONGEST_NAME = 14
"""Number of characters below a thumbnail."""


def write_neighbours(page: Page, path: Path) -> Path:
    """Draws evenly spaced clips of the page; the suffix of `path` (png, pdf, svg, jpg) sets the format.

    On the left, the sound of each clip looks for videos; on the right, its video looks for sounds. A sound is shown by
    the video that it belongs to. The query's own clip has a green frame where it is found.

    Raises:
        OSError: the file cannot be written.
    """
    rows = np.unique(np.linspace(0, len(page.clips) - 1, ROWS).astype(int))
    height = len(rows) * (CELL_INCHES + TEXT_INCHES) + HEAD_INCHES
    figure = Figure(figsize=(2 * (FOUND + 1.5) * CELL_INCHES, height), dpi=80)
    for part, direction in zip(np.asarray(figure.subfigures(1, 2)), DIRECTIONS, strict=True):
        _draw(part, page, rows, *direction)
    path.parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        # The font lacks emoji, which labels and file names may contain: a box in their place is good enough.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.savefig(path)
    return path


def found_share(page: Page, query: str, found: str) -> float:
    """The share of the clips whose own clip is among the FOUND nearest of the other modality."""
    near = page.nearest[query, found].rows[:, :FOUND]
    return float((near == np.arange(len(near))[:, None]).any(axis=1).mean())


def _draw(part: Figure | SubFigure, page: Page, rows: np.ndarray, query: str, found: str) -> None:
    share = found_share(page, query, found)
    part.suptitle(
        f"{DIRECTIONS[query, found]} of a clip  →  the {FOUND} nearest {NAMES[found]} of {len(page.clips)}\n"
        f"for {share:.0%} of the clips, their own is among them",
        fontsize=10,
    )
    grid = part.subplots(len(rows), FOUND + 1, squeeze=False, gridspec_kw={"width_ratios": [1.2, *[1] * FOUND]})
    for row, axes in zip(rows.tolist(), grid, strict=True):
        _thumbnail(axes[0], page, row, own=False)
        neighbours = page.nearest[query, found].rows[row, :FOUND].tolist()
        for cell, neighbour in zip(axes[1:], neighbours, strict=False):
            _thumbnail(cell, page, neighbour, own=neighbour == row)
        for cell in axes[1 + len(neighbours) :]:
            cell.remove()


def _thumbnail(axes: Axes, page: Page, row: int, *, own: bool) -> None:
    axes.imshow(page.clips[row].thumbnail)
    axes.set_xticks([])
    axes.set_yticks([])
    labels = next(iter(page.columns.values()), None)
    name = (labels[row] if labels else "") or Path(page.clips[row].source).stem
    short = name if len(name) <= LONGEST_NAME else name[: LONGEST_NAME - 1] + "…"
    axes.set_xlabel(short, fontsize=7, labelpad=2, parse_math=False)
    for spine in axes.spines.values():
        spine.set(visible=own, color=OWN, linewidth=4)
