"""Reads the clips of a query from a file of a user; runs in a worker, because a decoder may crash or hang.

Imports neither torch nor DALI: workers have little memory. A file goes through the same steps as in preparation, so the
vectors of a file as a query and as a row of the index agree.
"""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from pipeline.media.rejection import RejectedSource, file_problem
from pipeline.plan.augment import centre_windows
from pipeline.prepare.media import normalise
from search.decoding import storage_of
from settings import Config, PrepareConfig, StorageConfig

FEWEST, MOST = 4, 16
"""Number of clips of a file that is longer than one: at least as many as a row has, and no more than this."""
_PICTURES = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")
"""Pillow's names of the formats of pictures that are read."""


@dataclass(frozen=True, kw_only=True)
class Clips:
    """The clips of a query: either video or sound."""

    frames: np.ndarray | None = None
    """uint8 [C, T, S, S, 3], the square in the middle of the frames; of a picture [C, 1, S, S, 3]."""
    pcm: np.ndarray | None = None
    """int16 [C, samples]."""
    starts: np.ndarray
    """float64 [C], seconds from the start of the file."""
    seconds: float
    """Length of the file as far as it was read; 0 for a picture."""


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How files are read for the encoders of a run."""

    frames: int
    """T, frames per clip."""
    storage: StorageConfig
    """How frames are stored before they are cropped to a square."""
    samples: int
    """PCM samples per clip."""
    sample_rate: int
    max_seconds: float
    max_pixels: int

    @classmethod
    def of(cls, config: Config, *, max_seconds: float, max_pixels: int) -> Reading:
        """The reading for the encoders of a run with this configuration."""
        return cls(
            frames=config.clip.frames,
            storage=storage_of(config),
            samples=config.audio_samples,
            sample_rate=config.audio.sample_rate,
            max_seconds=max_seconds,
            max_pixels=max_pixels,
        )


def read_clips(path: Path, kind: str, at: float | None, reading: Reading) -> Clips:
    """Reads evenly spaced clips of a file, or the one that begins at `at` seconds.

    Args:
        kind: sound, video or picture; `sound` and `video` take that track of any media file.

    Raises:
        RejectedSource: the file cannot be used, or ends before `at`.
        MemoryError: it needs more memory than the process may use.
    """
    if kind == "picture":
        return Clips(frames=_picture(path, reading)[None, None], starts=np.zeros(1), seconds=0.0)
    config = PrepareConfig(
        storage=reading.storage,
        streams="audio" if kind == "sound" else "video",
        sample_rate=reading.sample_rate,
        min_seconds=0.01,
        max_seconds=reading.max_seconds,
        max_pixels=reading.max_pixels,
    )
    media = normalise(path, config)
    if kind == "sound":
        assert media.pcm is not None
        starts = _starts(len(media.pcm), reading.samples, reading.sample_rate, at)
        clips = [_window(media.pcm, start, reading.samples) for start in starts]
        return Clips(
            pcm=np.stack(clips), starts=starts / reading.sample_rate, seconds=len(media.pcm) / reading.sample_rate
        )
    video = media.video
    assert video is not None
    ends = video.first_frame + np.cumsum(video.frame_bytes)
    images = [video.data[end - size : end] for end, size in zip(ends.tolist(), video.frame_bytes, strict=True)]
    fps = reading.storage.fps
    starts = _starts(len(images), reading.frames, fps, at)
    places = np.minimum(starts[:, None] + np.arange(reading.frames), len(images) - 1)
    decoded = {place: _square(Image.open(io.BytesIO(images[place]))) for place in np.unique(places).tolist()}
    frames = np.stack([np.stack([decoded[place] for place in clip]) for clip in places.tolist()])
    return Clips(frames=frames, starts=starts / fps, seconds=len(images) / fps)


def _starts(length: int, clip: int, rate: float, at: float | None) -> np.ndarray:
    """Starts of the clips, int64 [C], in frames or samples of which there are `rate` per second."""
    last = max(length - clip, 0)
    if at is not None:
        if at * rate >= length:
            raise RejectedSource("too short", f"it ends after {length / rate:.3g} s, before {at:g} s")
        return np.array([min(round(at * rate), last)])
    if not last:
        return np.zeros(1, np.int64)
    count = min(MOST, max(FEWEST, round(length / clip)))
    return np.floor(np.linspace(0, 1, count) * last + 0.5).astype(np.int64)


def _window(pcm: np.ndarray, start: int, samples: int) -> np.ndarray:
    window = pcm[start : start + samples]
    return np.pad(window, (0, samples - len(window)))


def _picture(path: Path, reading: Reading) -> np.ndarray:
    """The square in the middle of a still picture, upright, uint8 [S, S, 3]."""
    if problem := file_problem(path):
        raise problem
    try:
        with warnings.catch_warnings():
            # Of large pictures, which the limit below concerns, and of odd but harmless metadata.
            warnings.simplefilter("ignore")
            with Image.open(path, formats=_PICTURES) as picture:
                if picture.width * picture.height > reading.max_pixels:
                    size = f"{picture.width} x {picture.height}"
                    raise RejectedSource("too many pixels", f"{size}, more than max_pixels={reading.max_pixels}")
                picture.draft("RGB", (2 * reading.storage.short_side, 2 * reading.storage.short_side))
                upright = ImageOps.exif_transpose(picture).convert("RGB")
    except UnidentifiedImageError:
        raise RejectedSource("not a picture", f"its format is none of {', '.join(_PICTURES)}") from None
    except MemoryError:
        raise
    except Exception as error:  # Pillow's decoders raise errors of many kinds on damaged files
        if isinstance(error, RejectedSource):
            raise
        raise RejectedSource("truncated or damaged", str(error)) from None
    scale = reading.storage.short_side / min(upright.size)
    width, height = (max(1, round(side * scale)) for side in upright.size)
    return _square(upright.resize((width, height), Image.Resampling.BICUBIC, reducing_gap=3))


def _square(picture: Image.Image) -> np.ndarray:
    pixels = np.asarray(picture.convert("RGB"))
    height, width = pixels.shape[:2]
    ((top, left, h, w),) = centre_windows(np.array([width]), np.array([height])).tolist()
    return pixels[top : top + h, left : left + w]
