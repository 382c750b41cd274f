"""A query encoder of a run together with its preprocessing, as one module that can be exported."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from common.normalisation import VIDEO_MEAN, VIDEO_STD
from model.batchnorm import FoldedTimeBatchNorm, replace_batchnorm
from model.encoder import CrossModalModel, Encoder
from portable.inputs import FrameInput, PcmInput
from settings import Config

INPUTS = {"video": "frames", "audio": "pcm"}
"""Maps each modality to the name of its encoder's input."""
OUTPUTS = ("embedding", "features")
"""Names of the outputs: float32 [B, D] of unit length, and the backbone's features, float32 [B, F]."""


class PortableEncoder(nn.Module):
    """Maps raw frames or PCM to the outputs of a query encoder, by the names in OUTPUTS.

    Args:
        inputs: the preprocessing.
        encoder: a query encoder in eval mode.
    """

    def __init__(self, *, inputs: FrameInput | PcmInput, encoder: Encoder) -> None:
        super().__init__()
        self.inputs = inputs
        self.encoder = encoder
        self.any_length = getattr(encoder.backbone, "exports_any_length", True)

    def forward(self, raw: torch.Tensor) -> dict[str, torch.Tensor]:
        """Maps uint8 [B, T, H, W, 3] or int16 [B, samples] to {"embedding": [B, D], "features": [B, F]}."""
        out = self.encoder(self.inputs(raw))
        return {"embedding": out.embedding, "features": out.features}


def portable_encoder(model: CrossModalModel, config: Config, modality: str) -> PortableEncoder:
    """Returns the query encoder of a modality with its preprocessing, as a frozen copy on the CPU, in eval mode."""
    inputs: FrameInput | PcmInput
    if modality == "video":
        inputs = FrameInput(size=config.clip.size, mean=VIDEO_MEAN, std=VIDEO_STD)
    else:
        inputs = PcmInput(config.audio)
    encoder = copy.deepcopy(model.query[modality]).cpu()
    _use_plain_layers(encoder.backbone)
    return PortableEncoder(inputs=inputs, encoder=encoder).eval().requires_grad_(False)


class _FoldedMaxPool(nn.Module):
    """nn.MaxPool1d as a pool over images of one row: torch.export would fix the length of the one-dimensional one."""

    def __init__(self, pool: nn.MaxPool1d) -> None:
        super().__init__()
        self.pool = pool

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        pool = self.pool
        options: dict[str, Any] = {
            "kernel_size": (1, pool.kernel_size),
            "stride": (1, pool.stride),
            "padding": (0, pool.padding),
        }
        return F.max_pool2d(x[:, :, None], **options)[:, :, 0]


def _use_plain_layers(module: nn.Module) -> None:
    """Replaces layers that are written for fast training or that torch.export cannot trace with any length."""
    if any(isinstance(child, FoldedTimeBatchNorm) for child in module.modules()):
        replace_batchnorm(module, nn.BatchNorm3d)
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.MaxPool1d):
                setattr(parent, name, _FoldedMaxPool(child))
