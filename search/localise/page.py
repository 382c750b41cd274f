"""Writes the page of search.localise: the video with its heat maps, whose opacity can be changed."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from common.html import data_uri, fill_page, webp
from search.localise.overlay import strengths
from search.localise.video import HeatedVideo

ASSETS = Path(__file__).with_name("assets")


def build_page(video: HeatedVideo, plain: bytes, *, title: str, notes: Sequence[str]) -> str:
    """The self-contained HTML; no text can become markup or script.

    Args:
        plain: the video without heat, as WebM.
    """
    levels = (255 * strengths(video, video.heat)).round().astype(np.uint8)
    peaks = video.heat.max(axis=(1, 2))
    data = {
        "notes": list(notes),
        "poster": data_uri("image/webp", webp(next(video.frames()), quality=80)) if video.images else "",
        "video": data_uri("video/webm", plain),
        "seconds": len(video.images) / video.fps,
        "times": np.round(video.times, 4).tolist(),
        "rows": video.heat.shape[1],
        "columns": video.heat.shape[2],
        "peaks": np.round(peaks, 4).tolist(),
        "strengths": base64.b64encode(levels.tobytes()).decode("ascii"),
    }
    return fill_page(ASSETS, title=title, data=data, scripts=[ASSETS / "app.js"], plays_sound=True)
