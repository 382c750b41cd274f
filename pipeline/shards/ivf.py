"""The IVF container: a file header, then frames, each behind a header of its own."""

from __future__ import annotations

import struct
from fractions import Fraction

_HEADER = struct.Struct("<4sHH4sHHIIII")
_FRAME_HEADER = struct.Struct("<IQ")
_FRAME_SIZE = struct.Struct("<I")

HEADER_BYTES = _HEADER.size
FRAME_HEADER_BYTES = _FRAME_HEADER.size


def header(fourcc: bytes, *, width: int, height: int, rate: Fraction) -> bytes:
    """The file header of a video of `width` x `height` pixels at `rate` frames per second.

    Its frame count is always 0: DALI loops forever when it is larger than the number of frames that follow.
    """
    return _HEADER.pack(b"DKIF", 0, HEADER_BYTES, fourcc, width, height, rate.numerator, rate.denominator, 0, 0)


def frame_header(size: int, index: int) -> bytes:
    """The header of frame number `index`, whose data takes `size` bytes."""
    return _FRAME_HEADER.pack(size, index)


def frame_size(file: memoryview, offset: int) -> int:
    """Bytes of data in the frame whose header is at `offset`, as that header says."""
    return _FRAME_SIZE.unpack_from(file, offset)[0]
