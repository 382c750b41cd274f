"""The decord loader gives a clip or an error for each file of the torture set, as its manifest expects."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.load.reference.decord_loader import DecordLoader, RawVideoError
from pipeline.load.reference.raw_decoding import read_header
from settings import AugmentConfig, ClipConfig, Config, DataConfig, TrainConfig

CONFIG = Config(
    clip=ClipConfig(frames=2, fps=10.0, size=32),
    augment=AugmentConfig(enabled=False),
    data=DataConfig(path="", loader="decord", threads=1),
    train=TrainConfig(batch_size=2),
)


def load(video: Path, folder: Path) -> str:
    """Loads a clip of the file; returns its tracks (both or video), or refused."""
    try:
        read_header(video)
    except ValueError:
        return "refused"
    (folder / f"only{video.suffix}").symlink_to(video)
    loader = DecordLoader(config=replace(CONFIG, data=replace(CONFIG.data, path=str(folder))))
    try:
        (batch,) = loader.uniform_clips([0], clips=1)
    except RawVideoError:
        return "refused"
    return "video" if batch.audio is None else "both"


ALLOWED = {
    "decode": {"both"},
    "no_audio": {"video"},
    "no_video": {"refused"},
    "decode_or_reject": {"both", "video", "refused"},
    "reject": {"refused"},
}


def test_each_file_gives_the_expected_result(real_data, tmp_path):
    files = json.loads((real_data / "torture_open/manifest.json").read_text(encoding="utf-8"))["files"]
    wrong = {}
    for number, entry in enumerate(files):
        folder = tmp_path / str(number)
        folder.mkdir()
        found = load(real_data / "torture_open" / entry["file"], folder)
        if found not in ALLOWED[entry["expect"]]:
            wrong[entry["file"]] = (entry["expect"], found)
    assert not wrong


@pytest.fixture(autouse=True)
def _quiet(caplog):
    caplog.set_level("ERROR")
