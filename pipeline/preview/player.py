"""Writes clips as an HTML page on which frames, waveform and spectrogram play together."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

from common.html import ELEMENT, data_uri, fill_page, webp
from pipeline.preview.contact_sheet import ShownClip, View, decibel_range, envelope, time_span
from pipeline.shards.wav import wav_bytes

ASSETS = Path(__file__).with_name("assets")
QUALITY = 88
"""WebP quality of the frames: the page is there to check what the model sees."""


def write_page(clips: Sequence[ShownClip], path: Path) -> Path:
    """Writes a self-contained HTML file that plays the clips.

    Raises:
        OSError: the file cannot be written.
    """
    data = [_clip(clip) for clip in clips]
    path.write_text(
        fill_page(ASSETS, title="Preview", data=data, scripts=(ELEMENT, ASSETS / "player.js"), plays_sound=True),
        encoding="utf-8",
    )
    return path


def _clip(clip: ShownClip) -> dict[str, Any]:
    begin, end = time_span(clip)
    frames = [view for view in clip.views if view.frames is not None]
    spectrograms = [view for view in clip.views if view.decibels is not None]
    return {
        "title": clip.title,
        "begin": begin,
        "end": end,
        "frames": [_frames(view, clip, frames[0]) for view in frames],
        "wave": None if clip.pcm is None else _wave(clip.pcm, clip),
        "spectrograms": [_spectrogram(view, clip, spectrograms[0]) for view in spectrograms],
    }


def _frames(view: View, clip: ShownClip, first: View) -> dict[str, Any]:
    """The frames as one picture, row by row."""
    assert view.frames is not None
    assert first.frames is not None
    count, height, width, _ = view.frames.shape
    columns = int(np.ceil(np.sqrt(count)))
    cells = np.zeros((-(-count // columns), columns, height, width, 3), np.uint8)
    cells.reshape(-1, height, width, 3)[:count] = view.frames
    sheet = cells.swapaxes(1, 2).reshape(len(cells) * height, columns * width, 3)
    note = ""
    if view is not first:
        difference = np.abs(view.frames.astype(int) - first.frames.astype(int)).mean()
        note = f"difference {difference:.1f} of 255"
    return {
        "label": view.loader if len(clip.views) > 1 else "frames",
        "note": note,
        "start": clip.start,
        "seconds": clip.frame_seconds,
        "count": count,
        "columns": columns,
        "width": width,
        "height": height,
        "sheet": data_uri("image/webp", webp(sheet, quality=QUALITY)),
    }


def _wave(pcm: np.ndarray, clip: ShownClip) -> dict[str, Any]:
    low, high = (np.round(edge, 4).tolist() for edge in envelope(pcm))
    return {
        "note": f"peak {max(abs(min(low)), max(high)):.2f}",
        "start": clip.audio_start,
        "end": clip.audio_start + len(pcm) / clip.sample_rate,
        "low": low,
        "high": high,
        "sound": data_uri("audio/wav", wav_bytes(pcm, clip.sample_rate)),
    }


def _spectrogram(view: View, clip: ShownClip, first: View) -> dict[str, Any]:
    assert view.decibels is not None
    assert first.decibels is not None
    low, high = decibel_range(first.decibels)
    shades = np.clip((view.decibels[::-1] - low) / max(high - low, 1e-6), 0, 1)
    picture = matplotlib.colormaps["magma"](shades, bytes=True)[..., :3]
    note = f"{low:.0f} to {high:.0f} dB"
    if view is not first:
        note = f"difference {np.abs(view.decibels - first.decibels).mean():.2f} dB"
    # Frame j of the spectrogram is centred on PCM sample j * hop.
    start = clip.audio_start - clip.hop_seconds / 2
    return {
        "label": view.loader if len(clip.views) > 1 else "log-mel",
        "note": note,
        "start": start,
        "end": start + view.decibels.shape[1] * clip.hop_seconds,
        "picture": data_uri("image/webp", webp(np.ascontiguousarray(picture), quality=None)),
    }
