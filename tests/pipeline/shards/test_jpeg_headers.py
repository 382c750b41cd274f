"""The reader's check of JPEG headers."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.shards.codecs.jpeg import _are_jpegs
from tests.pipeline.shards.test_round_trips import jpeg


@settings(deadline=None, max_examples=60, derandomize=True)
@given(data=st.binary(max_size=200) | st.binary(max_size=200).map(lambda tail: b"\xff\xd8\xff" + tail))
def test_a_jpeg_is_recognised_regardless_of_the_other_rows(data):
    image = jpeg(64, 48, b"picture")
    rows = [data, image, image[:-9], jpeg(48, 64, b"picture")]
    images = np.zeros((len(rows), 300), np.uint8)
    for target, row in zip(images, rows, strict=True):
        target[: len(row)] = np.frombuffer(row, np.uint8)
    lengths, shapes = np.array([len(row) for row in rows]), np.tile([48, 64], (len(rows), 1))
    alone = _are_jpegs(np.frombuffer(data, np.uint8)[None], lengths[:1], shapes[:1])
    assert _are_jpegs(images, lengths, shapes).tolist() == [*alone.tolist(), True, False, False]
