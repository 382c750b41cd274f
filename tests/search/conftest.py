"""A run folder with untrained encoders."""

from __future__ import annotations

from pathlib import Path

import pytest

from model import build_model
from settings import ClipConfig, Config, DataConfig, ModelConfig, to_dict
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
