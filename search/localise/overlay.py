"""Writes a video as WebM, plain or with its heat maps drawn over it."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from fractions import Fraction

import av
import matplotlib
import numpy as np
from PIL import Image

from evaluation.explore.media import mux_sound
from search.localise.video import HeatedVideo

OPACITY = 0.6
"""Opacity of the hottest places."""
_CRF = "32"
"""Quality of the VP9 video, from 0 (best) to 63."""


def strengths(video: HeatedVideo, heat: np.ndarray) -> np.ndarray:
    """How strongly each place of heat maps [..., rows, columns] is drawn, from 0 (transparent) to 1 (fully coloured).

    A map's median is drawn as 0, because the question is where the sound comes from, not when it goes with the picture.
    What counts as 1 is the same for the whole video: the top permille of the heat above the maps' medians.
    """
    high = np.quantile(_above_median(video.heat), 0.999)
    return np.clip(_above_median(heat) / max(high, 1e-6), 0, 1)


def _above_median(heat: np.ndarray) -> np.ndarray:
    return heat - np.median(heat, axis=(-2, -1), keepdims=True)


def overlaid(video: HeatedVideo) -> Iterator[np.ndarray]:
    """The frames with the heat maps over them, uint8 [H, W, 3]."""
    colours = matplotlib.colormaps["inferno"]
    for number, frame in enumerate(video.frames()):
        size = frame.shape[1::-1]
        small = Image.fromarray(strengths(video, video.at(number / video.fps)).astype(np.float32))
        strength = np.asarray(small.resize(size, Image.Resampling.BILINEAR))
        shares = OPACITY * np.sqrt(strength)[..., None]
        yield (frame * (1 - shares) + 255 * colours(strength)[..., :3] * shares).round().astype(np.uint8)


def webm(frames: Iterable[np.ndarray], video: HeatedVideo) -> bytes:
    """Encodes frames with the sound of a video as VP9 and Opus, which browsers play everywhere.

    Args:
        frames: uint8 [H, W, 3] each, at `video.fps`, of the size of the video's.
    """
    buffer = io.BytesIO()
    rate = Fraction(video.fps).limit_denominator(1000)
    with av.open(buffer, "w", format="webm") as container:
        options = {"crf": _CRF, "b": "0", "deadline": "realtime", "cpu-used": "7"}
        picture = container.add_stream("libvpx-vp9", rate=rate, options=options)
        sound = container.add_stream("libopus", rate=48000, layout="mono")
        sound.bit_rate = 64000
        picture.height, picture.width = next(video.frames()).shape[:2]
        picture.pix_fmt, picture.thread_count = "yuv420p", 1
        for number, frame in enumerate(frames):
            image = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
            image.pts, image.time_base = number, 1 / rate
            container.mux(picture.encode(image))
        container.mux(picture.encode(None))
        mux_sound(container, sound, video.pcm, video.sample_rate)
    return buffer.getvalue()
