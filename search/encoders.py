"""The trained encoders of a run, and the fingerprint by which embeddings of different encoders are told apart."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import torch

from model.encoder import CrossModalModel
from pipeline.batch import VIDEO_MEAN, VIDEO_STD
from settings import Config, to_dict
from training.checkpoint import find, model_of, read

DIVERGED = "the run has probably diverged; use an earlier checkpoint"
"""What to say where the output of trained encoders is not finite."""


@dataclass(frozen=True, kw_only=True)
class TrainedEncoders:
    """The query encoders of a checkpoint, on the CPU and in eval mode."""

    config: Config
    """The settings of the run, for evaluation."""
    model: CrossModalModel
    step: int
    """Training step of the checkpoint."""
    fingerprint: str
    """See `fingerprint`."""

    @property
    def dim(self) -> int:
        """Length D of the embeddings."""
        return self.config.model.dim


def load_encoders(run: Path) -> TrainedEncoders:
    """Loads the encoders of a run folder or checkpoint file.

    Raises:
        CheckpointError, ConfigError: there is no usable checkpoint.
    """
    state = read(find(run))
    config, model = model_of(state, source=str(run))
    config = config.for_evaluation()
    return TrainedEncoders(config=config, model=model, step=int(state["step"]), fingerprint=fingerprint(config, model))


def fingerprint(config: Config, model: CrossModalModel) -> str:
    """SHA-256, as hexadecimal digits, of the query encoders' weights and of all settings that shape their input.

    Two models with the same fingerprint give the same clip the same embedding, up to rounding.
    """
    audio = to_dict(config.audio) | {"seconds": config.audio_seconds}
    inputs = {"clip": to_dict(config.clip), "audio": audio, "mean": list(VIDEO_MEAN), "std": list(VIDEO_STD)}
    names = {"video": config.model.video, "audio": config.model.audio}
    digest = hashlib.sha256(json.dumps([inputs, names], sort_keys=True).encode())
    for name, tensor in sorted(model.query.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
