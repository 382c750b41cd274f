"""A run folder with untrained encoders, and a collection of videos that they embedded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from model import build_model
from pipeline.demo.corpus import make_demo
from search.embed.run import embed
from search.embeddings import open_embeddings
from search.index.build import build
from settings import ClipConfig, Config, DataConfig, ModelConfig, to_dict
from settings.search import EmbedConfig
from training.checkpoint import CheckpointStore

CONFIG = Config(
    data=DataConfig(path="never-opened"),
    clip=ClipConfig(frames=4, fps=10.0, size=32),
    model=ModelConfig(video="tiny", audio="tiny", dim=16),
)
STEP = 3


def save_run(folder: Path, *, scale: float = 1.0) -> Path:
    """Writes a run folder with one checkpoint; `scale` multiplies the weights."""
    model = build_model(CONFIG.model, audio=CONFIG.audio, seed=0)
    for parameter in model.query.parameters():
        parameter.data *= scale
    store = CheckpointStore(folder / "checkpoints", keep=1)
    store.save({"config": to_dict(CONFIG), "model": model.state_dict()}, step=STEP)
    store.finish()
    return folder


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run; not to be changed."""
    return save_run(tmp_path_factory.mktemp("run"))


@dataclass(frozen=True)
class Collection:
    """Videos 00000.mp4 to 00007.mp4 with labels, the run, and the index of the videos under its encoders."""

    videos: Path
    run: Path
    index: Path


@pytest.fixture(scope="session")
def collection(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Collection:
    """Not to be changed."""
    folder = tmp_path_factory.mktemp("collection")
    make_demo(folder / "videos", videos=8, seed=0)
    config = EmbedConfig(device="cpu")
    embed(run, folder / "videos", folder / "rows", config=config, labels=folder / "videos" / "labels.csv")
    build(open_embeddings(folder / "rows"), folder / "index", exact_up_to=1000)
    return Collection(videos=folder / "videos", run=run, index=folder / "index")
