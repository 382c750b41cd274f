"""torchvision's Kinetics-400 weights, which were trained with labels, as an upper reference."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from model.encoder import CrossModalModel
from model.weights import read_weights, require_fitting, without_classifier
from settings import ConfigError

ARCHITECTURES = ("mc3_18", "mvit_v2_s", "r2plus1d_18", "r3d_18", "swin3d_t")


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
    state = _download(architecture) if weights == "torchvision" else read_weights(Path(weights), key="reference")
    reference = copy.deepcopy(model)
    backbone = reference.query["video"].backbone
    what = f"reference={weights!r} does not hold weights of {architecture}"
    backbone.load_state_dict(require_fitting(without_classifier(state), backbone.state_dict(), what=what), strict=False)
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
