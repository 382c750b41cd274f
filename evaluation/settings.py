"""Settings of evaluate.py, given as key=value."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from config import ConfigError


@dataclass(frozen=True)
class EvaluationConfig:
    """How test clips are taken and probes fitted; encoders and clip sizes come from the checkpoint."""

    clips: int = 4
    """Evenly spaced test clips of a sample."""
    pooling: Literal["mean", "concat"] = "mean"
    """mean averages the clips' features. concat puts them one after the other: for labels that are tied to a place in
    time, as words in a sentence."""
    batch_size: int = 32
    """Clips that are decoded and encoded together."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: the GPU, if there is one."""
    loader: str = ""
    """dali or decord; empty takes the checkpoint's."""
    labels: str = ""
    """labels.csv of raw videos (loader decord only)."""
    k: int = 10
    """Neighbours of the knn protocol."""
    folds: int = 5
    """Folds of the cross-validation that chooses the linear probe's C, within the training part."""
    seed: int = 0
    """Of the split by hash and of the folds."""

    def __post_init__(self) -> None:
        for name, least in (("clips", 1), ("batch_size", 1), ("k", 1), ("folds", 2), ("seed", 0)):
            value = getattr(self, name)
            if value < least:
                raise ConfigError(f"{name} must be at least {least}, not {value}")
