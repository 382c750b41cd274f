"""Writes small media files with chosen time stamps, frames and audio."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray

RATE = 44100
Audio = Sequence[tuple[float, NDArray[np.float32]]]


def write_media(
    path: Path,
    *,
    frames: Sequence[tuple[float, NDArray[np.uint8]]] = (),
    sound: Audio = (),
    pixel_aspect: Fraction | None = None,
) -> Path:
    """Writes RGB frames with their times and pieces of mono audio (44.1 kHz) with their start times, all in seconds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        video = audio = None
        if frames:
            video = container.add_stream("libx264", rate=25, options={"tune": "zerolatency", "preset": "ultrafast"})
            video.height, video.width = frames[0][1].shape[:2]
            video.pix_fmt, video.time_base = "yuv420p", Fraction(1, 1000)
            video.codec_context.time_base = Fraction(1, 1000)
            video.codec_context.thread_count = 1
            if pixel_aspect is not None:
                video.codec_context.sample_aspect_ratio = pixel_aspect
        if sound:
            codec = "pcm_s16le" if path.suffix in (".mkv", ".avi", ".mov") else "aac"
            audio = container.add_stream(codec, rate=RATE, layout="mono")
        for time, image in frames:
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = round(1000 * time), Fraction(1, 1000)
            container.mux(video.encode(frame))
        for start, samples in sound:
            form = "s16" if codec == "pcm_s16le" else "fltp"
            values = (samples * 32767).astype(np.int16) if form == "s16" else samples.astype(np.float32)
            for offset in range(0, len(samples), 1024):
                frame = av.AudioFrame.from_ndarray(values[None, offset : offset + 1024], format=form, layout="mono")
                frame.sample_rate, frame.time_base = RATE, Fraction(1, RATE)
                frame.pts = round(start * RATE) + offset
                container.mux(audio.encode(frame))
        for stream in filter(None, (video, audio)):
            container.mux(stream.encode(None))
    return path


def tone(seconds: float, frequency: float = 1000.0) -> NDArray[np.float32]:
    """Returns a sine wave at half of full scale, float32 [n], sampled at 44.1 kHz."""
    return (0.5 * np.sin(2 * np.pi * frequency * np.arange(round(seconds * RATE)) / RATE)).astype(np.float32)


def flat(value: int | tuple[int, int, int], *, width: int = 64, height: int = 48) -> NDArray[np.uint8]:
    """Returns an RGB image of one colour, uint8 [height, width, 3]."""
    return np.broadcast_to(np.array(value, dtype=np.uint8), (height, width, 3)).copy()


def decode_blob(data: bytes, form: str = "rgb24") -> NDArray[np.uint8]:
    """Decodes an IVF file to frames [T, ...] in the pixel format `form`."""
    with av.open(io.BytesIO(data), format="ivf") as container:
        return np.stack([frame.to_ndarray(format=form) for frame in container.decode(video=0)])


@pytest.fixture(scope="session")
def media() -> type:
    """The helpers of this file as a fixture, because tests cannot import from a conftest."""

    class Media:
        write = staticmethod(write_media)
        tone = staticmethod(tone)
        flat = staticmethod(flat)
        decode = staticmethod(decode_blob)

    return Media


@pytest.fixture
def clip(media: type, tmp_path: Path) -> Callable[..., Path]:
    """Returns a function that writes an ordinary video at 10 fps to src/NAME, with audio unless `silent`."""

    def make(name: str, *, seconds: float = 1.0, shade: int = 100, silent: bool = False) -> Path:
        frames = [(index / 10, media.flat(shade + index)) for index in range(round(10 * seconds))]
        sound = [] if silent else [(0.0, media.tone(seconds))]
        return media.write(tmp_path / "src" / name, frames=frames, sound=sound)

    return make
