"""The same videos in a folder and in a store."""

from __future__ import annotations

import os
import shutil

import numpy as np
import pytest

from common.stores import location
from tests.pipeline.conftest import RATE, moving_picture, write_video


@pytest.fixture(scope="package")
def videos(tmp_path_factory):
    """Seven small videos and what a folder may hold besides."""
    folder = tmp_path_factory.mktemp("videos")
    rng = np.random.default_rng(0)
    for number in range(7):
        pictures = moving_picture(rng, width=48, height=32, count=12)
        name = ("dog", "Vögel & Co")[number % 2]
        write_video(folder / name / f"{number}.mp4", pictures, 0.1 * rng.standard_normal(RATE), fps=10)
    (folder / "dog" / "broken.mp4").write_bytes(b"no video at all" * 100)
    (folder / "dog" / "empty.mkv").write_bytes(b"")
    (folder / "notes.txt").write_text("not a video")
    return folder


@pytest.fixture
def src(store, videos, tmp_path, monkeypatch):
    """The URL of the same files, and a folder with them that have the same times."""
    monkeypatch.setenv("CMACC_SCRATCH", str(tmp_path / "scratch"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    url = location(f"{store.make_bucket()}/some/videos")
    store.put_folder(videos, url)
    store.put(f"{url}/dog/", b"")  # what some programs store for a folder
    copy = shutil.copytree(videos, tmp_path / "videos")
    for file in url.files():
        if not file.key.endswith("dog"):
            os.utime(copy / file.key, ns=(file.modified_ns, file.modified_ns))
    return url, copy
