"""A decoder that ends its process, as decord's library does on some damaged files."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from pipeline.raw_decoding import decode_frames


def decode_or_abort(path: str, **arguments: Any) -> np.ndarray:
    """As decode_frames, but for the file video5.mp4."""
    if path.endswith("video5.mp4"):
        os.abort()
    return decode_frames(path, **arguments)
