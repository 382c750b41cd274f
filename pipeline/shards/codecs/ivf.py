"""The IVF container: a file header, then frames, each preceded by a frame header."""

from __future__ import annotations

import struct
from fractions import Fraction

_HEADER = struct.Struct("<4sHH4sHHIIII")
_FRAME_HEADER = struct.Struct("<IQ")
_FRAME_SIZE = struct.Struct("<I")

HEADER_BYTES = _HEADER.size
"""Size of the file header: 32 bytes."""
FRAME_HEADER_BYTES = _FRAME_HEADER.size
"""Size of a frame header: 12 bytes."""


def header(fourcc: bytes, *, width: int, height: int, rate: Fraction) -> bytes:
    """The file header of a video of `width` x `height` pixels at `rate` frames per second.

    Its frame count is always 0, because DALI loops forever if the count exceeds the number of frames in the file.
    """
    return _HEADER.pack(b"DKIF", 0, HEADER_BYTES, fourcc, width, height, rate.numerator, rate.denominator, 0, 0)


def frame_header(size: int, index: int) -> bytes:
    """The header of frame number `index`, whose data takes `size` bytes."""
    return _FRAME_HEADER.pack(size, index)


def frame_size(file: memoryview, offset: int) -> int:
    """Reads from the frame header at `offset` how many bytes of data follow it."""
    return _FRAME_SIZE.unpack_from(file, offset)[0]
