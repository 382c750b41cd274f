"""Writes the page of evaluation.explore: one HTML file with embedded pictures and audio."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from common.html import ELEMENT, data_uri, fill_page
from evaluation.explore.geometry import Neighbours
from evaluation.explore.media import sheets

ASSETS = Path(__file__).with_name("assets")
SCRIPTS = (ELEMENT, ASSETS / "map.js", ASSETS / "media.js", ASSETS / "app.js")


@dataclass(frozen=True, kw_only=True)
class Media:
    """What a clip plays."""

    frames: bytes
    """WebP, frames side by side."""
    sound: bytes
    """Ogg Opus."""
    lead: float
    """Seconds from the start of the sound to the first frame."""


@dataclass(frozen=True, kw_only=True)
class Clip:
    """One point of the maps."""

    sample: int
    source: str
    thumbnail: np.ndarray
    """uint8 [S, S, 3]; S is the same for all clips."""
    media: Media | None
    """None for a clip that only has its thumbnail."""


@dataclass(frozen=True, kw_only=True)
class Page:
    """The content of the page; rows are positions in `clips`."""

    title: str
    notes: list[str]
    columns: Mapping[str, list[str]]
    """Label column -> the label of each clip; empty text where it is unknown."""
    clusters: Mapping[str, np.ndarray]
    """Modality -> number of each clip's cluster, int64 [n]."""
    clips: list[Clip]
    seconds: float
    """Length of the video of a clip."""
    maps: Mapping[str, np.ndarray]
    """Modality -> coordinates in [0, 1], [n, 2]."""
    nearest: Mapping[tuple[str, str], Neighbours]
    """(modality of the query, modality found) -> the nearest clips of each clip."""
    active: Mapping[str, np.ndarray]
    """Modality -> rows that its dictionary holds."""
    random: Mapping[str, np.ndarray]
    """Modality -> as many random rows."""


def write_page(page: Page, path: Path) -> int:
    """Writes the file and returns its size in bytes.

    Raises:
        OSError: it cannot be written.
    """
    text = build_page(page).encode("utf-8")
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.write_bytes(text)


def build_page(page: Page) -> str:
    """The HTML; no text of the data can become markup or script."""
    data = {
        "notes": page.notes,
        "samples": [clip.sample for clip in page.clips],
        "sources": [clip.source for clip in page.clips],
        "columns": [*_label_columns(page), *_cluster_columns(page)],
        "maps": {modality: np.round(places, 4).ravel().tolist() for modality, places in page.maps.items()},
        "nearest": {
            f"{query}-{found}": {"rows": near.rows.tolist(), "cosines": np.round(near.cosines, 3).tolist()}
            for (query, found), near in page.nearest.items()
        },
        "sets": {
            modality: {"active": rows.tolist(), "random": page.random[modality].tolist()}
            for modality, rows in page.active.items()
        },
        "first": first_chosen(page),
        "seconds": page.seconds,
        "thumbnails": thumbnails_json([clip.thumbnail for clip in page.clips]),
        "media": {row: media_json(clip.media) for row, clip in enumerate(page.clips) if clip.media},
    }
    return fill_page(ASSETS, title=page.title, data=data, scripts=SCRIPTS, plays_sound=True)


def first_chosen(page: Page) -> int:
    """The row that is chosen when the page opens: of those that play, the one whose video and audio agree most.

    Their cosine similarity is known where the clip is among its own nearest; if none is, the first row that plays.
    """
    near = page.nearest["video", "audio"]
    plays = [row for row, clip in enumerate(page.clips) if clip.media] or [0]

    def agreement(row: int) -> float:
        own = near.cosines[row][near.rows[row] == row]
        return float(own[0]) if len(own) else -np.inf

    return max(plays, key=agreement)


def _label_columns(page: Page) -> list[dict[str, Any]]:
    columns = []
    for name, labels in page.columns.items():
        values = sorted({label for label in labels if label})
        code_of = {value: code for code, value in enumerate(values)}
        columns.append(_column(name, values, [code_of.get(label, -1) for label in labels]))
    return columns


def _cluster_columns(page: Page) -> list[dict[str, Any]]:
    columns = []
    for modality, codes in page.clusters.items():
        values = [f"{modality} cluster {number + 1}" for number in range(int(codes.max()) + 1)]
        columns.append(_column(f"{modality} clusters", values, codes.tolist(), cluster=True))
    return columns


def _column(name: str, values: list[str], codes: Sequence[int], *, cluster: bool = False) -> dict[str, Any]:
    """One way to colour the clips; code -1 is unknown."""
    return {"name": name, "values": values, "codes": list(codes), "cluster": cluster}


def thumbnails_json(thumbnails: Sequence[np.ndarray]) -> dict[str, Any]:
    """Thumbnails, each uint8 [S, S, 3], as assets/media.js reads them."""
    pictures, columns = sheets(thumbnails)
    return {
        "size": len(thumbnails[0]),
        "columns": columns,
        "per_sheet": columns**2,
        "sheets": [data_uri("image/webp", picture) for picture in pictures],
    }


def media_json(media: Media) -> dict[str, Any]:
    """What a clip plays, as assets/media.js reads it."""
    return {
        "frames": data_uri("image/webp", media.frames),
        "sound": data_uri("audio/ogg", media.sound),
        "lead": round(media.lead, 3),
    }
