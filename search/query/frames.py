"""Finds the files of sources, and takes single frames of them; frames are decoded in a worker.

A source is the name of a file, or of a part of one, such as `a.mp4#t=20,30`: see pipeline.lists.spans.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import av
import av.error
from PIL import Image

from pipeline.lists.spans import parse_fragment, split_fragment
from pipeline.media.opening import check_decoder, is_cover_art, open_media
from pipeline.media.orientation import OrientationReader
from pipeline.media.rejection import RejectedSource

_WIDTH = 480
"""Largest width and height of a frame that is shown, in pixels."""
_MOST_FRAMES = 1000
"""Frames that are decoded at most between the key frame before a time and the time itself."""


def file_and_start(source: str) -> tuple[str, float]:
    """The name of the file of a source, and the seconds from the file's start to that of the source."""
    name, fragment = split_fragment(source)
    span = parse_fragment(fragment)
    return name, 0.0 if span is None else span.start


def file_of(root: Path, source: str) -> Path | None:
    """The file of a source below the folder `root`; None if there is none, or if it lies elsewhere.

    Args:
        root: a resolved path. Names with `..` and links that lead out of it are not followed.
    """
    try:
        path = (root / split_fragment(source)[0]).resolve(strict=True)
    except (OSError, ValueError, RuntimeError):  # also a loop of links, or a name with a zero byte
        return None
    return path if path.is_relative_to(root) and path.is_file() else None


def frame_at(path: Path, seconds: float, *, max_pixels: int) -> bytes:
    """The frame of a video that is shown `seconds` after its first one, upright, as WebP.

    Raises:
        RejectedSource: the file has no video, or it cannot be decoded.
        MemoryError: it needs more memory than the process may use.
    """
    try:
        with open_media(path, max_pixels=max_pixels) as container:
            videos = [stream for stream in container.streams.video if not is_cover_art(stream)]
            if not videos:
                raise RejectedSource("no video track")
            stream = videos[0]
            check_decoder(stream)
            origin = float((stream.start_time or 0) * (stream.time_base or 0))
            if seconds > 0.5 and stream.time_base:
                container.seek(int((origin + seconds) / stream.time_base), stream=stream)
            upright, shown = OrientationReader(), None
            for number, frame in enumerate(container.decode(stream)):
                shown = (frame, upright(frame))
                if frame.time is None or frame.time >= origin + seconds - 0.02 or number == _MOST_FRAMES:
                    break
            if shown is None:
                raise RejectedSource("truncated or damaged", "no frame can be decoded")
            frame, orientation = shown
            if frame.width * frame.height > max_pixels:
                raise RejectedSource("too many pixels", f"a frame has {frame.width} x {frame.height}")
            pixels: Any = frame.to_ndarray(format="rgb24")
            picture = Image.fromarray(orientation.apply(pixels))
    except av.error.FFmpegError as error:
        if isinstance(error, MemoryError):
            raise
        raise RejectedSource("truncated or damaged", error.strerror or str(error)) from None
    picture.thumbnail((_WIDTH, _WIDTH))
    buffer = io.BytesIO()
    picture.save(buffer, "WEBP", quality=75, method=2)
    return buffer.getvalue()
