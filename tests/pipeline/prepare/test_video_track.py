"""Video frames: geometry and colours."""

from __future__ import annotations

from fractions import Fraction

import av
import numpy as np
import pytest

from pipeline.media.orientation import AS_STORED
from pipeline.prepare.video_track import VideoTrack, plan_geometry
from settings import StorageConfig


@pytest.mark.parametrize(
    ("width", "height", "aspect", "scale"),
    [
        (1920, 1080, Fraction(1), (256, 144)),
        (1080, 1920, Fraction(1), (144, 256)),
        (720, 576, Fraction(16, 15), (192, 144)),
        (16, 16, Fraction(1), (144, 144)),
        (480, 32, Fraction(1), (576, 144)),
        (2, 4000, Fraction(1), (144, 576)),
    ],
)
def test_geometry_keeps_the_aspect_ratio_with_even_sides(width, height, aspect, scale):
    plan = plan_geometry(width=width, height=height, pixel_aspect=aspect, orientation=AS_STORED, short_side=144)
    assert plan.scale == scale
    assert plan.crop[0] <= width
    assert plan.crop[1] <= height


# Pure red in Y'CbCr, in limited-range BT.709, limited-range BT.601 and full-range BT.601.
RED_709, RED_601, RED_FULL = (63, 102, 240), (81, 90, 240), (76, 85, 255)


@pytest.mark.parametrize("codec", ["vp9", "jpeg"])
@pytest.mark.parametrize(
    ("values", "colorspace", "color_range"), [(RED_709, 1, 1), (RED_601, 6, 1), (RED_601, 2, 0), (RED_FULL, 5, 2)]
)
def test_every_colour_space_and_range_is_stored_as_bt601(codec, values, colorspace, color_range):
    planes = np.full((72, 64), values[0], dtype=np.uint8)
    planes[48:60], planes[60:] = values[1], values[2]
    frame = av.VideoFrame.from_ndarray(planes, format="yuv420p")
    frame.colorspace, frame.color_range, frame.pts, frame.time_base = colorspace, color_range, 0, Fraction(1, 25)
    storage = StorageConfig(codec=codec, fps=25, short_side=48, quality=4)
    track = VideoTrack(storage=storage, pixel_aspect=Fraction(1), frame_seconds=0.04, max_seconds=1)
    track.add(frame)
    track.flush()
    blob = track.finish()
    decoder = av.CodecContext.create("vp9" if codec == "vp9" else "mjpeg", "r")
    stored = decoder.decode(av.Packet(blob.data[blob.first_frame + (12 if codec == "vp9" else 0) :]))[0]
    expected = RED_601 if codec == "vp9" else RED_FULL
    for plane, value in zip(stored.planes, expected, strict=True):
        assert np.abs(np.frombuffer(plane, np.uint8).astype(int)[:16] - value).max() <= 3
