"""All eight orientations, from every carrier, compared with where the four corners must be shown."""

from __future__ import annotations

import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from pipeline.media.orientation import AS_STORED, Orientation, from_matrix
from pipeline.prepare.media import normalise
from settings import PrepareConfig, StorageConfig

CONFIG = PrepareConfig(streams="video", min_seconds=0.1, storage=StorageConfig(fps=10, short_side=48))
RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)
# a b c d of the display matrix, the value of EXIF's orientation tag, and where FFmpeg's program shows the red, green,
# blue and white quarters (top left, top right, bottom left, bottom right of the stored picture).
SHOWN = {
    (1, 0, 0, 1): (1, "RGBW"),
    (-1, 0, 0, 1): (2, "GRWB"),
    (-1, 0, 0, -1): (3, "WBGR"),
    (1, 0, 0, -1): (4, "BWRG"),
    (0, 1, 1, 0): (5, "RBGW"),
    (0, 1, -1, 0): (6, "BRWG"),
    (0, -1, -1, 0): (7, "WGBR"),
    (0, -1, 1, 0): (8, "GWRB"),
}


def quarters(width: int = 64, height: int = 48) -> np.ndarray:
    image = np.zeros((height, width, 3), dtype=np.uint8)
    for place, color in enumerate((RED, GREEN, BLUE, WHITE)):
        top, left = place // 2 * height // 2, place % 2 * width // 2
        image[top : top + height // 2, left : left + width // 2] = color
    return image


def seen(frame: np.ndarray) -> str:
    """The colours of the four quarters of an RGB frame."""
    height, width = frame.shape[:2]
    spots = [frame[y * height // 4, x * width // 4] for y in (1, 3) for x in (1, 3)]
    names = {RED: "R", GREEN: "G", BLUE: "B", WHITE: "W"}
    return "".join(names.get(tuple(255 * (int(value) > 128) for value in spot), "?") for spot in spots)


def fixed_point(matrix: tuple[int, ...]) -> list[int]:
    a, b, c, d = (value << 16 for value in matrix)
    return [a, b, 0, c, d, 0, 0, 0, 1 << 30]


def remux(source: Path, target: Path, matrix: tuple[int, ...]) -> Path:
    """Copies a video into another container with a display matrix."""
    with av.open(str(source)) as read, av.open(str(target), "w") as written:
        stream = written.add_stream_from_template(read.streams.video[0])
        stream.set_display_matrix(fixed_point(matrix))
        for packet in read.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                written.mux(packet)
    return target


@pytest.fixture(scope="module")
def video(media, tmp_path_factory) -> Path:
    frames = [(index / 10, quarters()) for index in range(3)]
    return media.write(tmp_path_factory.mktemp("upright") / "v.mp4", frames=frames, pixel_aspect=Fraction(3, 2))


@pytest.mark.parametrize("suffix", ["mp4", "mov", "mkv"])
@pytest.mark.parametrize("matrix", SHOWN)
def test_the_display_matrix_of_a_container_is_obeyed_with_its_mirrors(media, video, tmp_path, matrix, suffix):
    stored = normalise(remux(video, tmp_path / f"v.{suffix}", matrix), CONFIG).video
    # 64 x 48 pixels that are half again as wide as high are shown as 96 x 48, or turned as 48 x 96.
    assert (stored.width, stored.height) == ((48, 96) if matrix[0] == 0 else (96, 48))
    assert {seen(frame) for frame in media.decode(stored.data)} == {SHOWN[matrix][1]}


@pytest.mark.parametrize("matrix", SHOWN)
def test_the_exif_orientation_of_motion_jpeg_is_obeyed(media, tmp_path, matrix):
    tag, shown = SHOWN[matrix]
    entry = struct.pack(">HHHIHHI", 1, 0x112, 3, 1, tag, 0, 0)
    body = b"Exif\0\0MM\0*\0\0\0\x08" + entry
    path = tmp_path / "v.mjpeg"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuvj420p"
        for _ in range(8):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(quarters(), format="rgb24")))
        container.mux(stream.encode(None))
    plain = path.read_bytes()
    path.write_bytes(plain.replace(b"\xff\xd8", b"\xff\xd8\xff\xe1" + struct.pack(">H", len(body) + 2) + body))
    frames = media.decode(normalise(path, CONFIG).video.data)
    assert {seen(frame) for frame in frames} == {shown}


@pytest.mark.parametrize(
    ("turn", "flip", "shown"), [(90, "", "GWRB"), (0, "horizontal", "GRWB"), (90, "vertical", "WGBR")]
)
def test_an_orientation_message_of_h264_holds_until_the_next_key_frame(media, tmp_path, turn, flip, shown):
    plain = media.write(tmp_path / "plain.h264", frames=[(index / 10, quarters()) for index in range(20)])
    path = tmp_path / "v.h264"
    text = f"h264_metadata=display_orientation=insert:rotate={turn}" + (f":flip={flip}" if flip else "")
    with av.open(str(plain)) as read, path.open("wb") as written:
        stream = read.streams.video[0]
        insert = av.bitstream.BitStreamFilterContext(text, stream)
        for packet in read.demux(stream):
            written.writelines(map(bytes, insert.filter(packet) if packet.size else []))
    frames = media.decode(normalise(path, CONFIG).video.data)
    assert {seen(frame) for frame in frames} == {shown}


@pytest.mark.parametrize("matrix", SHOWN)
def test_numpy_and_ffmpeg_turn_alike(matrix):
    upright = from_matrix(np.array(fixed_point(matrix), dtype=np.int32)).apply(quarters())
    assert seen(upright) == SHOWN[matrix][1]


def test_a_matrix_between_quarter_turns_is_rounded_and_says_by_how_much():
    cos, sin = (round(65536 * np.cos(np.radians(100))), round(65536 * np.sin(np.radians(100))))
    matrix = np.array([cos, sin, 0, -sin, cos, 0, 0, 0, 1 << 30], dtype=np.int32)
    assert from_matrix(matrix) == Orientation(transpose=True, hflip=True, tilt=10)
    assert from_matrix(np.zeros(9, dtype=np.int32)) == AS_STORED
