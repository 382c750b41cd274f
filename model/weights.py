"""Weights from files: reading them, and finding out whether they are those of a network."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from settings import ConfigError
from settings.load import format_names, format_value

CLASSIFIERS = ("fc.", "head.")
"""Prefixes of the classifier's tensors in torchvision's networks; encoders have none."""
_SHOWN = 3
"""Number of names that a message lists."""


def read_weights(path: Path, *, key: str) -> dict[str, Any]:
    """Returns the contents of a .safetensors file, or of one that torch.save wrote; only plain values are unpickled.

    Args:
        key: the setting that names the file, for the message.

    Raises:
        ConfigError: the file cannot be read.
    """
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise ConfigError(f"{key}={str(path)!r} cannot be read as weights: {error.strerror or error}") from None
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # torch and safetensors raise many types here, depending on the file
        raise ConfigError(
            f"{key}={str(path)!r} cannot be read as weights: it is damaged, or holds more than tensors "
            f"({type(error).__name__}); give tensors by name: .pth as torchvision publishes it, or .safetensors"
        ) from None


def without_classifier(state: Any) -> Any:
    """Returns tensors by name without those of torchvision's classifier; anything else is returned as it is."""
    if not isinstance(state, Mapping):
        return state
    return {name: value for name, value in state.items() if not str(name).startswith(CLASSIFIERS)}


def require_fitting(state: Any, wanted: Mapping[str, torch.Tensor], *, what: str) -> dict[str, torch.Tensor]:
    """Returns `state` if it holds finite tensors of the names and shapes of `wanted`.

    BatchNorm's counters may be missing, as in files from before torch 0.4.1.

    Args:
        wanted: the state dict of the network; only its names, shapes and types are used.
        what: begins the message, such as "model.init_video='a.pth' does not hold weights of r3d_18".

    Raises:
        ConfigError: it holds something else; the message names the first tensors at fault.
    """
    if not isinstance(state, Mapping) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise ConfigError(f"{what}: it is no mapping of names to tensors")
    missing = [name for name in wanted if name not in state and not name.endswith("num_batches_tracked")]
    unexpected = [str(name) for name in state if name not in wanted]
    for names, problem in ((missing, "lacks"), (unexpected, "has, unlike the network,")):
        if names:
            raise ConfigError(
                f"{what}: it {problem} {_listed(names)}; give a file of this architecture, or choose that of the file"
            )
    for name, tensor in state.items():
        network = wanted[name]
        if tensor.shape != network.shape or tensor.is_floating_point() != network.is_floating_point():
            raise ConfigError(f"{what}: {name} is {_described(tensor)}, but the network's is {_described(network)}")
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise ConfigError(f"{what}: {name} is not finite; the file is damaged, or its training diverged")
    return dict(state)


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more tensors" if len(names) > _SHOWN else ""
    return format_names(names[:_SHOWN]) + more


def _described(tensor: torch.Tensor) -> str:
    return format_value(f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}").strip("'")
