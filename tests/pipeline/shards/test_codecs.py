"""A codec is one object: what it writes can be read back, and a new codec needs only an entry in CODECS."""

from __future__ import annotations

import io
from fractions import Fraction

import numpy as np
import pytest
from av.video.frame import VideoFrame

from pipeline.prepare.media import NormalisedMedia
from pipeline.shards.codecs import CODECS, ivf
from pipeline.shards.codecs.jpeg import Jpeg
from pipeline.shards.encoder import BlobEncoder
from pipeline.shards.tar_writer import sample_bytes, sample_row
from settings import PrepareConfig, StorageConfig


class Coarse(Jpeg):
    """JPEG of the lowest quality."""

    suffix = "coarse"
    default_quality = 31


@pytest.mark.parametrize("codec", ["vp9", "jpeg", "coarse"])
def test_a_blob_of_each_codec_is_found_in_its_shard(monkeypatch: pytest.MonkeyPatch, codec: str) -> None:
    monkeypatch.setitem(CODECS, "coarse", Coarse())
    storage = StorageConfig(codec=codec)  # type: ignore[arg-type]
    encoder = BlobEncoder(storage=storage, width=64, height=48)
    noise = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    for _ in range(3):
        encoder.add(VideoFrame.from_ndarray(noise).reformat(format=CODECS[codec].pixel_format))
    blob = encoder.finish()
    assert blob.first_frame + sum(blob.frame_bytes) == len(blob.data)
    media = NormalisedMedia(video=blob, pcm=None, flags={})
    tar = sample_bytes(media, key="a", source="a.mp4", labels={}, config=PrepareConfig(storage=storage))
    row = sample_row(io.BytesIO(tar))
    assert tar.startswith(f"a.{CODECS[codec].suffix}".encode())
    assert tar[row["video_offset"] :][: len(blob.data)] == blob.data


def test_an_ivf_header_has_a_frame_count_of_zero() -> None:
    header = ivf.header(b"VP90", width=192, height=144, rate=Fraction(2997, 100))
    assert len(header) == ivf.HEADER_BYTES == 32
    assert header == b"DKIF\0\0\x20\0VP90\xc0\0\x90\0\xb5\x0b\0\0\x64\0\0\0" + bytes(8)
    frame = ivf.frame_header(300, 7)
    assert len(frame) == ivf.FRAME_HEADER_BYTES == 12
    assert ivf.frame_size(memoryview(b"12" + frame), 2) == 300
