"""Plants copies, encoded anew, in a folder of videos."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np


def reencode(video: Path, copy: Path, *, crf: int, width: int, bit_rate: int, cut: float) -> None:
    """Writes a copy with another quality, size and sound quality, without its first `cut` seconds.

    Args:
        crf: of libx264.
        width: of the copy in pixels; its height keeps the shape of the frame.
        bit_rate: of the AAC sound, in bits per second.
    """
    with av.open(str(video)) as source:
        frames = [frame for frame in source.decode(video=0) if frame.time >= cut]
        rate = source.streams.audio[0].rate
    with av.open(str(video)) as source:
        sound = np.concatenate([frame.to_ndarray() for frame in source.decode(audio=0)], axis=1)
    with av.open(str(copy), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=25, options={"preset": "veryfast", "crf": str(crf)})
        stream.width, stream.height = width, 2 * round(frames[0].height * width / frames[0].width / 2)
        stream.pix_fmt, stream.thread_count = "yuv420p", 1
        track = container.add_stream("aac", rate=rate, layout="mono")
        track.bit_rate = bit_rate
        for number, frame in enumerate(frames):
            scaled = frame.reformat(width=stream.width, height=stream.height, format="yuv420p")
            scaled.pts, scaled.time_base = number, Fraction(1, 25)
            container.mux(stream.encode(scaled))
        container.mux(stream.encode())
        wave = av.AudioFrame.from_ndarray(np.ascontiguousarray(sound[:1, round(cut * rate) :]), "fltp", "mono")
        wave.sample_rate, wave.pts, wave.time_base = rate, 0, Fraction(1, rate)
        container.mux(track.encode(wave))
        container.mux(track.encode())
