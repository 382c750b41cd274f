"""torchvision's Kinetics-400 weights, which were trained with labels, as an upper reference."""

from __future__ import annotations

import copy
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from model.encoder import CrossModalModel
from settings import ConfigError

ARCHITECTURES = ("mc3_18", "r2plus1d_18", "r3d_18")


def reference_model(model: CrossModalModel, *, architecture: str, weights: str) -> CrossModalModel:
    """A copy of `model` with a video encoder trained on the labels of Kinetics-400, and no audio encoder.

    Args:
        architecture: model.video of the checkpoint.
        weights: `torchvision` to download them (into torch.hub's cache), or the path of a file.

    Raises:
        ConfigError: torchvision has no weights of this architecture, the file does not fit it, or the download failed.
    """
    if architecture not in ARCHITECTURES:
        raise ConfigError(
            f"reference={weights!r} needs a checkpoint whose model.video is one of {', '.join(ARCHITECTURES)}, "
            f"not {architecture}: torchvision has no weights of that architecture"
        )
    state = _download(architecture) if weights == "torchvision" else _read(Path(weights))
    backbone = {name: value for name, value in state.items() if not name.startswith("fc.")}
    reference = copy.deepcopy(model)
    try:
        reference.query["video"].backbone.load_state_dict(backbone)
    except RuntimeError as error:
        raise ConfigError(f"reference={weights!r} does not hold weights of {architecture}: {error}") from None
    del reference.query["audio"]
    return reference


def _download(architecture: str) -> dict[str, Any]:
    # Imported where it is used, because it takes seconds to load.
    from torchvision.models import get_model_weights

    weights = get_model_weights(architecture).DEFAULT
    try:
        return weights.get_state_dict(progress=True, check_hash=True)
    except OSError as error:
        raise ConfigError(
            f"reference=torchvision could not download {weights.url} ({error}). Where there is no network, fetch that "
            "file elsewhere and give its path: reference=FILE"
        ) from None


def _read(path: Path) -> dict[str, Any]:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, SafetensorError, UnpicklingError, RuntimeError) as error:
        raise ConfigError(f"reference={str(path)!r} cannot be read as weights: {error}") from None
