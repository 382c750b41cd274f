"""Encodes pictures and sound for the page."""

from __future__ import annotations

import io
from collections.abc import Sequence

import av
import numpy as np
from av.audio.stream import AudioStream
from av.container import OutputContainer
from PIL import Image

from common.html import webp

STRIP_PIXELS, STRIP_FRAMES = 112, 8
"""Largest side in pixels of the frames that the page plays, and their largest number per clip."""
SHEET_PIXELS = 4096
"""Largest side of a sheet in pixels; browsers refuse pictures above 16,384, and WebP those above 16,383."""
QUALITY = 62


def thumbnail_pixels(clips: int) -> int:
    """Side of the thumbnails: smaller where there are many, so that 20,000 take about 20 MB."""
    return 64 if clips <= 2000 else 32


def shrink(picture: np.ndarray, side: int) -> np.ndarray:
    """A square picture, uint8 [S, S, 3], scaled to uint8 [side, side, 3]."""
    return np.asarray(Image.fromarray(picture).resize((side, side), Image.Resampling.LANCZOS))


def strip(frames: np.ndarray) -> bytes:
    """Square frames, uint8 [T, S, S, 3], side by side as WebP: at most STRIP_FRAMES evenly spaced ones."""
    count, side = min(len(frames), STRIP_FRAMES), min(frames.shape[1], STRIP_PIXELS)
    # Frame j is shown during the j-th of `count` equal parts of the clip: take the frame in the middle of that part.
    chosen = ((np.arange(count) + 0.5) * len(frames) / count).astype(int)
    return webp(np.concatenate([shrink(frames[k], side) for k in chosen], axis=1), quality=QUALITY)


def sheets(thumbnails: Sequence[np.ndarray]) -> tuple[list[bytes], int]:
    """Arranges thumbnails, each uint8 [S, S, 3], in rows on WebP sheets; returns these and the columns of a sheet.

    A full sheet has as many rows as columns.
    """
    side = len(thumbnails[0])
    columns = min(SHEET_PIXELS // side, int(np.ceil(np.sqrt(len(thumbnails)))))
    pages = []
    for first in range(0, len(thumbnails), columns**2):
        part = thumbnails[first : first + columns**2]
        cells = np.zeros((-(-len(part) // columns), columns, side, side, 3), np.uint8)
        cells.reshape(-1, side, side, 3)[: len(part)] = part
        picture = cells.swapaxes(1, 2).reshape(len(cells) * side, columns * side, 3)
        pages.append(webp(picture, quality=QUALITY))
    return pages, columns


def opus(pcm: np.ndarray, sample_rate: int) -> bytes:
    """Encodes mono int16 PCM as Ogg Opus at 24 kbit/s."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="ogg") as container:
        stream = container.add_stream("libopus", rate=48000, layout="mono")
        stream.bit_rate = 24000
        mux_sound(container, stream, pcm, sample_rate)
    return buffer.getvalue()


def mux_sound(container: OutputContainer, stream: AudioStream, pcm: np.ndarray, sample_rate: int) -> None:
    """Encodes mono int16 PCM as all of a mono stream of 48 kHz."""
    frame = av.AudioFrame.from_ndarray(pcm.astype(np.int16)[None], format="s16", layout="mono")
    frame.sample_rate = sample_rate
    resampler = av.AudioResampler(format="s16", layout="mono", rate=48000)
    for resampled in [*resampler.resample(frame), *resampler.resample(None)]:
        container.mux(stream.encode(resampled))
    container.mux(stream.encode(None))
