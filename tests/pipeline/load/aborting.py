"""Decoders whose process ends: by an abort, as decord does on some damaged files, or by SIGTERM, as at a job's end."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.load.reference.raw_decoding import decode_frames


def decode_or_abort(path: str, **arguments: Any) -> np.ndarray:
    """Like decode_frames, but aborts the process on the file video5.mp4."""
    if path.endswith("video5.mp4"):
        os.abort()
    return decode_frames(path, **arguments)


def decode_or_terminate(path: str, **arguments: Any) -> np.ndarray:
    """Like decode_frames, but the first call ends its process by SIGTERM."""
    terminated = Path(path).parent / "terminated"
    if not terminated.exists():
        terminated.touch()
        os.kill(os.getpid(), signal.SIGTERM)
    return decode_frames(path, **arguments)
