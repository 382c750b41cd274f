"""The decord loader uses only frames that fit the header: of one part of a joined file, and of the stated size."""

from __future__ import annotations

import shutil
from pathlib import Path

import av
import numpy as np
import pytest

from pipeline.load.reference.decord_loader import DecordLoader, RawVideoError
from pipeline.load.reference.raw_decoding import decode_frames, read_header
from settings import Config, load_config


def recording(path: Path, *, brightness: int, codec: str = "mpeg2video") -> Path:
    """One second of grey frames."""
    with av.open(str(path), "w") as container:
        video = container.add_stream(codec, rate=25)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        for _ in range(25):
            image = np.full((48, 64, 3), brightness, dtype=np.uint8)
            container.mux(video.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(video.encode(None))
    return path


def joined(folder: Path, suffix: str, **options: str) -> Path:
    """A dark recording followed by a bright one."""
    path = folder / f"joined.{suffix}"
    with path.open("wb") as file:
        for brightness in (40, 200):
            part = recording(folder / f"{brightness}.{suffix}", brightness=brightness, **options)
            with part.open("rb") as content:
                shutil.copyfileobj(content, file)
    return path


@pytest.mark.parametrize("suffix", ["ts", "mpg"])
def test_a_file_whose_clock_starts_again_is_left_out_by_name(tmp_path, suffix) -> None:
    path = joined(tmp_path, suffix)
    assert read_header(tmp_path / f"40.{suffix}").width == 64
    with pytest.raises(ValueError, match="its time stamps start again"):
        read_header(path)


def test_frames_of_a_joined_file_are_those_of_its_first_part(tmp_path) -> None:
    path = joined(tmp_path, "mkv", codec="libx264")
    assert read_header(path).seconds == pytest.approx(1, abs=0.1)
    frames = decode_frames(str(path), wanted=np.arange(10) / 10, is_upright=True)
    assert frames.max() < 80


def test_frames_of_another_size_than_the_first_one_are_refused_by_name(tmp_path) -> None:
    path = recording(tmp_path / "a.mp4", brightness=40, codec="libx264")
    settings = ["data.loader=decord", f"data.path={tmp_path}", "clip.frames=2", "clip.size=32", "train.batch_size=2"]
    loader = DecordLoader(config=load_config(Config, None, settings))
    loader.dataset.height[0] += 2
    with pytest.raises(RawVideoError, match=rf"{path}: frames of 64 x 48 pixels, though the first has 64 x 50"):
        list(loader.uniform_clips([0], clips=1))
