"""Linear probes on every layer of the encoders: where along a network its features become useful."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import numpy as np
import torch
from torch import nn

from common.progress import show_progress
from evaluation.features import Features
from evaluation.probes.linear import fit_probe
from evaluation.statistics import accuracy_row, majority_row
from evaluation.task import Task
from model.encoder import CrossModalModel, Encoder, EncoderOutput
from model.layers import layers
from settings.evaluation import EvaluationConfig


class LayeredEncoder(nn.Module):
    """An encoder whose features are those of all layers of its backbone, one after the other.

    The layers are those of `model.layers`: stages of a ResNet, blocks of a transformer. Their features are averaged
    over time and space, or over all tokens.

    Attributes:
        widths: name of each layer -> number of its features, in their order; filled by the first forward pass.
    """

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.backbone = encoder.backbone
        self.widths: dict[str, int] = {}

    def forward(self, clips: torch.Tensor) -> EncoderOutput:
        """Maps clips [B, ...] to features [B, sum of the widths]."""
        found = layers(self.backbone)
        channel_dim = getattr(self.backbone, "channel_dim", 1)
        maps: list[torch.Tensor] = []

        def keep(_: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
            maps.append(inputs[0].movedim(channel_dim, 1).flatten(2).mean(dim=2))

        # What a layer gives is what the next one receives: its activation, and not an inner convolution's output.
        hooks = [layer.parts[0].register_forward_pre_hook(keep) for layer in found[1:]]
        try:
            maps.append(self.backbone(clips))
        finally:
            for hook in hooks:
                hook.remove()
        names = [layer.name if not layer.name.isdigit() else f"layer {n}" for n, layer in enumerate(found, 1)]
        self.widths = {name: rows.shape[1] for name, rows in zip(names, maps, strict=True)}
        features = torch.cat(maps, dim=1)
        return EncoderOutput(features, features, features)


class LayeredModel(nn.Module):
    """The query encoders of a model with the features of all their layers."""

    def __init__(self, model: CrossModalModel) -> None:
        super().__init__()
        self.query = nn.ModuleDict({modality: LayeredEncoder(model.query[modality]) for modality in model.query})

    def widths(self, modality: str) -> dict[str, int]:
        """The number of features of each layer, after the first forward pass."""
        return cast(LayeredEncoder, self.query[modality]).widths


def run_layers(
    models: Mapping[str, LayeredModel], features: Mapping[str, Features], task: Task, config: EvaluationConfig
) -> list[dict[str, Any]]:
    """Test accuracy of a linear probe on each layer of each encoder, and of the majority class.

    Args:
        models: those that gave the features.
        features: of the layers one after the other; with config.pooling="concat", those of each clip in turn.
    """
    slots = config.clips if config.pooling == "concat" else 1
    probes = [
        (name, modality, layer, columns)
        for name, encoded in features.items()
        for modality in encoded.pooled
        for layer, columns in _columns(models[name].widths(modality), slots)
    ]
    rows = []
    for name, modality, layer, columns in show_progress(probes, total=len(probes), unit="probes"):
        x = features[name].pooled[modality][:, columns]
        probe, c = fit_probe(x[task.train], task.codes[task.train], folds=config.folds, seed=config.seed)
        row = accuracy_row(name, modality, probe.predict(x[task.test]) == task.codes[task.test])
        rows.append({"encoder": name, "modality": modality, "layer": layer} | row | {"C": c, "features": len(columns)})
    return [*rows, majority_row(task)]


def _columns(widths: Mapping[str, int], slots: int) -> list[tuple[str, np.ndarray]]:
    """The columns of each layer in features [n, slots x sum of the widths]."""
    ends = np.cumsum(list(widths.values()))
    starts = np.arange(slots)[:, None] * ends[-1]
    return [
        (layer, (starts + np.arange(end - width, end)).ravel())
        for (layer, width), end in zip(widths.items(), ends, strict=True)
    ]
