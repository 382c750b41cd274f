"""Decoders that end their process: as decord's library does on some damaged files, and as a job's end does."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.load.reference.raw_decoding import decode_frames


def decode_or_abort(path: str, **arguments: Any) -> np.ndarray:
    """As decode_frames, but for the file video5.mp4."""
    if path.endswith("video5.mp4"):
        os.abort()
    return decode_frames(path, **arguments)


def decode_or_terminate(path: str, **arguments: Any) -> np.ndarray:
    """As decode_frames, but the first process that comes is told to end."""
    told = Path(path).parent / "told"
    if not told.exists():
        told.touch()
        os.kill(os.getpid(), signal.SIGTERM)
    return decode_frames(path, **arguments)
