"""A clip to draw or to play."""

from __future__ import annotations

import numpy as np

from pipeline.preview.contact_sheet import ShownClip, View


def make_clip(**changes) -> ShownClip:
    """A clip of 4 frames (0.4 s) whose audio begins 0.1 s earlier and ends 0.1 s later."""
    rng = np.random.default_rng(0)
    view = View(
        loader="dali",
        frames=rng.integers(0, 256, (4, 8, 8, 3), dtype=np.uint8),
        decibels=rng.normal(-30, 10, (8, 61)).astype(np.float32),
    )
    values = {
        "title": "#3 a.mp4",
        "start": 1.0,
        "frame_seconds": 0.1,
        "audio_start": 0.9,
        "pcm": rng.integers(-3000, 3000, 9600).astype(np.int16),
        "sample_rate": 16000,
        "hop_seconds": 0.01,
        "views": [view],
    }
    return ShownClip(**(values | changes))
