"""How decoded frames are turned and mirrored for display, as the ffmpeg program does; tilts are not corrected."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import av.filter
import numpy as np
from av.sidedata.sidedata import Type
from av.video.frame import VideoFrame
from numpy.typing import NDArray

_TILT_TOLERANCE = 1.0
"""Largest difference, in degrees, from the nearest quarter turn that does not count as a tilt."""
_UNKNOWN_TYPES = range(len(Type), 48)
"""Numbers of FFmpeg's types of side data that PyAV has no name for, such as EXIF; 48 leaves room for later versions."""


@dataclass(frozen=True)
class Orientation:
    """What is done to a frame before it is shown: it is transposed, then mirrored.

    Attributes:
        transpose: rows become columns (a mirror at the diagonal from the top left).
        hflip: left and right are exchanged.
        vflip: top and bottom are exchanged.
        tilt: angle in degrees by which the display matrix differs from the nearest quarter turn, 0 up to the
            tolerance; it is reported, not applied.
    """

    transpose: bool = False
    hflip: bool = False
    vflip: bool = False
    tilt: int = 0

    def filters(self) -> list[str]:
        """The FFmpeg filters that show a frame upright."""
        steps = (("transpose=dir=cclock_flip", self.transpose), ("hflip", self.hflip), ("vflip", self.vflip))
        return [name for name, wanted in steps if wanted]

    def size(self, width: int, height: int) -> tuple[int, int]:
        """Width and height of a frame after turning it."""
        return (height, width) if self.transpose else (width, height)

    def apply(self, frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Shows a frame [H, W, ...] upright."""
        if self.transpose:
            frame = frame.swapaxes(0, 1)
        if self.hflip:
            frame = frame[:, ::-1]
        return frame[::-1] if self.vflip else frame


AS_STORED = Orientation()
"""The orientation of a stream that states none."""


class OrientationReader:
    """Reads the orientation of each frame of a stream; call it with the frames in presentation order.

    The display matrix may come from the container, from EXIF data or from a message in the stream. Encoders send such
    a message with key frames only; it then holds until the next key frame.
    """

    def __init__(self) -> None:
        self._latest = AS_STORED

    def __call__(self, frame: VideoFrame) -> Orientation:
        matrix = display_matrix(frame)
        if matrix is not None:
            self._latest = from_matrix(matrix)
        elif frame.key_frame:
            self._latest = AS_STORED
        return self._latest


def from_matrix(matrix: NDArray[np.int32]) -> Orientation:
    """The orientation nearest to a display matrix, int32 [9], as in FFmpeg's libavutil/display.h."""
    a, b, c, d = (float(matrix[place]) for place in (0, 1, 3, 4))
    if a * d == b * c:
        return AS_STORED  # a singular matrix would show no picture at all
    angle = math.degrees(math.atan2(b / math.hypot(b, d), a / math.hypot(a, c)))
    off = abs((angle + 45) % 90 - 45)
    tilt = round(off) if off > _TILT_TOLERANCE else 0
    if abs(b) + abs(c) > abs(a) + abs(d):
        return Orientation(transpose=True, hflip=c < 0, vflip=b < 0, tilt=tilt)
    return Orientation(hflip=a < 0, vflip=d < 0, tilt=tilt)


def display_matrix(frame: VideoFrame) -> NDArray[np.int32] | None:
    """The display matrix of a frame, int32 [9]; None if it has none."""
    found: Any
    try:
        found = frame.side_data
    except ValueError:
        found = _without_unknown(frame).side_data
    matrices = [np.frombuffer(data, dtype=np.int32) for data in found if data.type is Type.DISPLAYMATRIX]
    return matrices[0] if matrices and len(matrices[0]) == 9 else None


def _without_unknown(frame: VideoFrame) -> VideoFrame:
    """The frame without the side data that PyAV cannot name, and therefore refuses to list."""
    graph = av.filter.Graph()
    graph.threads = 1
    size = f"video_size={frame.width}x{frame.height}:pix_fmt={frame.format.name}:time_base=1/1000:pixel_aspect=1/1"
    nodes = [graph.add("buffer", size)]
    nodes += [graph.add("sidedata", f"mode=delete:type={kind}") for kind in _UNKNOWN_TYPES]
    graph.link_nodes(*nodes, graph.add("buffersink")).configure()
    graph.push(frame)
    plain = graph.pull()
    assert isinstance(plain, VideoFrame)
    return plain
