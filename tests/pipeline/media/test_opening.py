"""What users give is opened only if it is a file of a known format, with known decoders and within the limits."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import av
import numpy as np
import pytest

from pipeline.load.reference.decord_loader import DecordLoader
from pipeline.load.reference.raw_decoding import read_header
from pipeline.media.opening import MAX_STREAMS, check_decoder, open_media
from pipeline.media.rejection import RejectedSource
from settings import Config, DataConfig

PIXELS = 10**8


def encoded(path: Path, codec: str, form: str, pixel_format: str, *, tracks: int = 1) -> Path:
    with av.open(str(path), "w", format=form) as container:
        streams = [container.add_stream(codec, rate=25) for _ in range(tracks)]
        for stream in streams:
            stream.width, stream.height, stream.pix_fmt = 32, 32, pixel_format
        for stream in streams:
            frame = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")
            container.mux([*stream.encode(frame), *stream.encode(None)])
    return path


@pytest.mark.parametrize(
    "text",
    [
        "#EXTM3U\n#EXTINF:1,\nsecret.ts\n",
        "ffconcat version 1.0\nfile secret.mp4\n",
        "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n",
        "Sub 1\n\n[playlist]\nFile1=secret.mp4\n",
    ],
)
def test_playlists_in_disguise_are_refused(tmp_path, text):
    path = tmp_path / "v.mp4"
    path.write_text(text)
    with pytest.raises(RejectedSource, match="not a media file"):
        open_media(path, max_pixels=PIXELS)
    with pytest.raises(ValueError, match="not a media file"):
        read_header(path)


def test_a_picture_with_the_suffix_of_a_video_is_refused(tmp_path):
    path = encoded(tmp_path / "v.mp4", "png", "image2pipe", "rgb24")
    with pytest.raises(RejectedSource, match="none of the video and audio formats"):
        open_media(path, max_pixels=PIXELS)


def test_a_decoder_that_is_not_listed_is_refused(tmp_path):
    path = encoded(tmp_path / "v.avi", "mjpeg", "avi", "yuvj420p")
    path.write_bytes(path.read_bytes().replace(b"MJPG", b"LOCO"))
    with (
        open_media(path, max_pixels=PIXELS) as container,
        pytest.raises(RejectedSource, match="the video track is loco"),
    ):
        check_decoder(container.streams.video[0])


def test_a_file_of_too_many_tracks_is_refused(tmp_path):
    path = encoded(tmp_path / "v.mkv", "mjpeg", "matroska", "yuvj420p", tracks=MAX_STREAMS + 1)
    with pytest.raises(RejectedSource, match="too many tracks: 129, more than 128"):
        open_media(path, max_pixels=PIXELS)


def test_a_pipe_does_not_block(tmp_path):
    os.mkfifo(tmp_path / "v.mp4")
    with pytest.raises(RejectedSource, match="not a file"):
        open_media(tmp_path / "v.mp4", max_pixels=PIXELS)


def test_the_decord_loader_opens_nothing_in_the_process_of_training(corpus, monkeypatch):
    def forbidden(*_: object, **__: object) -> None:
        raise AssertionError("opened in the trainer's process")

    monkeypatch.setattr("av.open", forbidden)
    monkeypatch.setattr("decord.VideoReader", forbidden)
    loader = DecordLoader(config=corpus.config("decord"))
    (batch,) = loader.uniform_clips([1, 2], clips=1)
    assert len(batch.ids) == 2


def test_mirrored_videos_reach_the_decord_loader_upright(media, tmp_path):
    image = media.flat(0, width=96, height=64)
    image[:, :48] = 255
    path = media.write(tmp_path / "v.mp4", frames=[(i / 25, image) for i in range(25)])
    data = bytearray(path.read_bytes())
    matrix = data.index(b"tkhd") + 44
    data[matrix : matrix + 36] = struct.pack(">9i", -1 << 16, 0, 0, 0, 1 << 16, 0, 96 << 16, 0, 1 << 30)
    path.write_bytes(data)
    header = read_header(path)
    assert not header.is_upright
    loader = DecordLoader(config=Config(data=DataConfig(path=str(tmp_path), loader="decord", threads=1)))
    frames = loader._frames(0, 0).numpy()
    assert frames[0, :, :40].max() < 60
    assert frames[0, :, 56:].min() > 200
