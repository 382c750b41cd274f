"""Writes the page of evaluation.explore: one HTML file with embedded images and audio."""

from __future__ import annotations

import html
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image

from common.html import data_uri

TEMPLATE = Path(__file__).with_suffix(".html")
PICTURE_PIXELS = 96


@dataclass(frozen=True, kw_only=True)
class Clip:
    """One point of the map."""

    sample: int
    source: str
    picture: np.ndarray
    """uint8 [H, W, 3]."""
    pcm: np.ndarray
    """int16 [samples]."""


@dataclass(frozen=True, kw_only=True)
class Page:
    """The content of the page; rows are positions in `clips`."""

    title: str
    notes: list[str]
    columns: Mapping[str, list[str]]
    """Label column -> the label of each clip."""
    clips: list[Clip]
    sample_rate: int
    maps: Mapping[str, np.ndarray]
    """Modality -> coordinates in [0, 1], [n, 2]."""
    nearest: Mapping[tuple[str, str], list[list[tuple[int, float]]]]
    """(modality of the query, modality found) -> for each clip, its nearest ones as (row, cosine similarity)."""
    active: Mapping[str, np.ndarray]
    """Modality -> rows that its dictionary holds."""
    random: Mapping[str, np.ndarray]
    """Modality -> as many random rows."""


def write_page(page: Page, path: Path) -> int:
    """Writes the file and returns its size in bytes.

    Raises:
        OSError: it cannot be written.
    """
    text = build_page(page)
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.write_text(text, encoding="utf-8")


def build_page(page: Page) -> str:
    """The HTML; no text of the data can become markup or script."""
    data = {
        "notes": page.notes,
        "columns": dict(page.columns),
        "clips": [
            {
                "sample": clip.sample,
                "source": clip.source,
                "picture": data_uri("image/jpeg", jpeg(clip.picture)),
                "sound": data_uri("audio/ogg", opus(clip.pcm, page.sample_rate)),
            }
            for clip in page.clips
        ],
        "maps": {modality: np.round(places, 4).tolist() for modality, places in page.maps.items()},
        "nearest": {
            f"{query}-{found}": [[[row, round(cosine, 3)] for row, cosine in near] for near in rows]
            for (query, found), rows in page.nearest.items()
        },
        "sets": {
            modality: {"active": rows.tolist(), "random": page.random[modality].tolist()}
            for modality, rows in page.active.items()
        },
    }
    # The data are inserted last, because names may contain the placeholders.
    before, after = TEMPLATE.read_text(encoding="utf-8").split("{{data}}")
    before = before.replace("{{title}}", html.escape(page.title))
    return before + _json_in_html(data) + after


def jpeg(picture: np.ndarray) -> bytes:
    """A JPEG of at most PICTURE_PIXELS per side."""
    image = Image.fromarray(picture)
    image.thumbnail((PICTURE_PIXELS, PICTURE_PIXELS))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=70)
    return buffer.getvalue()


def opus(pcm: np.ndarray, sample_rate: int) -> bytes:
    """Encodes mono int16 PCM as Ogg Opus at 24 kbit/s."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="ogg") as container:
        stream = container.add_stream("libopus", rate=48000, layout="mono")
        stream.bit_rate = 24000
        frame = av.AudioFrame.from_ndarray(pcm.astype(np.int16)[None], format="s16", layout="mono")
        frame.sample_rate = sample_rate
        resampler = av.AudioResampler(format="s16", layout="mono", rate=48000)
        for resampled in [*resampler.resample(frame), *resampler.resample(None)]:
            container.mux(stream.encode(resampled))
        container.mux(stream.encode(None))
    return buffer.getvalue()


def _json_in_html(data: Any) -> str:
    # Without any "<", names like </script> or <!-- cannot end the script element.
    return json.dumps(data, separators=(",", ":")).replace("<", "\\u003c").replace("&", "\\u0026")
