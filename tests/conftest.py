"""Fixtures shared by all tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pipeline.demo.corpus import make_demo
from pipeline.prepare.run import prepare
from settings import PrepareConfig, load_config


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of real data, from the environment variable CMACC_DATA; skips the test if it is not set."""
    folder = os.environ.get("CMACC_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("CMACC_DATA does not name a folder of real data")
    return Path(folder)


@pytest.fixture(scope="session")
def demo_shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Thirty videos of the demo corpus, prepared at a small size."""
    folder = tmp_path_factory.mktemp("demo")
    make_demo(folder / "videos", videos=30, seed=0)
    prepare(
        folder / "videos",
        folder / "shards",
        config=load_config(PrepareConfig, overrides=["storage.short_side=64", "storage.codec=jpeg", "shard_samples=8"]),
        labels_path=folder / "videos" / "labels.csv",
        workers=1,
    )
    return folder / "shards"
