"""The configuration of a run with the smallest encoders."""

from __future__ import annotations

from settings import ClipConfig, Config, DataConfig, ModelConfig

CONFIG = Config(
    data=DataConfig(path="never-opened"),
    clip=ClipConfig(frames=4, fps=8.0, size=32),
    model=ModelConfig(video="tiny", audio="tiny", dim=16),
)
