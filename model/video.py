"""Video backbones, from clips [B, 3, T, H, W] to features [B, F].

`r2plus1d_18`, `r3d_18` and `mc3_18` are torchvision's networks without `fc`, `mvit_v2_s` and `swin3d_t` those without
`head`. Their state dict names are torchvision's, so weights can be exchanged in both directions: with
`load_state_dict(weights, strict=False)` only `fc` or `head` is missing or unexpected.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from common.normalisation import VIDEO_MEAN, VIDEO_STD
from model.batchnorm import ClipBatchNorm, replace_batchnorm
from model.video_transformers import INPUT, MVIT_FEATURES, SWIN_FEATURES, MViT, Swin

TINY_FEATURES = 256


class TinyVideo(nn.Module):
    """A (2+1)-D network for CPUs: about 70 million multiply-adds for 8 frames of 64 x 64 pixels.

    The first convolution sees each frame twice: unchanged, and minus the clip's mean image. The difference makes motion
    visible from the first step; a network of this size would need most of a short run to learn to compute it.

    Each stage is a spatial and then a temporal convolution, as in R(2+1)D (Tran et al. 2018). Four stages are shallow
    enough to train without residual connections. The stem reduces the resolution by a factor of four, because
    convolutions at full resolution would take most of a CPU's time.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem = _spatial_temporal(6, 32, kernel=7, stride=4, temporal_stride=1, spatial=MotionStem)
        self.stage1 = _spatial_temporal(32, 64, kernel=3, stride=2, temporal_stride=1)
        self.stage2 = _spatial_temporal(64, 128, kernel=3, stride=2, temporal_stride=2)
        self.stage3 = _spatial_temporal(128, TINY_FEATURES, kernel=3, stride=1, temporal_stride=2)
        for module in self.modules():
            if isinstance(module, nn.Conv3d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, video: torch.Tensor) -> torch.Tensor:
        """Maps [B, 3, T, H, W] to [B, F]."""
        return self.stage3(self.stage2(self.stage1(self.stem(video)))).mean(dim=(2, 3, 4))


class MotionStem(nn.Conv3d):
    """Convolves each frame of clips [B, C, T, H, W], stacked with its difference from the clip's mean image.

    The convolution has 2C input channels, and its kernel spans a single frame. By linearity
    w * x + v * (x - m) = (w + v) * x - v * m, which needs half the products and no concatenation.
    """

    def forward(self, video: torch.Tensor) -> torch.Tensor:
        still, moving = self.weight.chunk(2, dim=1)
        mean = video.mean(dim=2, keepdim=True)
        convolve = self._conv_forward  # torch-private: nn.Conv3d's convolution with other weights
        return convolve(video, still + moving, None).sub_(convolve(mean, moving, None))


def _spatial_temporal(
    inputs: int,
    outputs: int,
    *,
    kernel: int,
    stride: int,
    temporal_stride: int,
    spatial: type[nn.Conv3d] = nn.Conv3d,
) -> nn.Sequential:
    return nn.Sequential(
        spatial(inputs, outputs, (1, kernel, kernel), (1, stride, stride), (0, kernel // 2, kernel // 2), bias=False),
        ClipBatchNorm(outputs),
        nn.ReLU(inplace=True),
        nn.Conv3d(outputs, outputs, (3, 1, 1), (temporal_stride, 1, 1), (1, 0, 0), bias=False),
        ClipBatchNorm(outputs),
        nn.ReLU(inplace=True),
    )


def _torchvision(name: str) -> Callable[[], tuple[nn.Module, int]]:
    def factory() -> tuple[nn.Module, int]:
        # Imported where it is used, because it takes seconds to load.
        from torchvision.models import video

        network: Any = getattr(video, name)(weights=None)
        features = network.fc.in_features
        network.fc = nn.Identity()
        replace_batchnorm(network, ClipBatchNorm)
        return network, features

    return factory


VIDEO_ENCODERS: dict[str, Callable[[], tuple[nn.Module, int]]] = {
    "r2plus1d_18": _torchvision("r2plus1d_18"),
    "r3d_18": _torchvision("r3d_18"),
    "mc3_18": _torchvision("mc3_18"),
    "mvit_v2_s": lambda: (MViT(), MVIT_FEATURES),
    "swin3d_t": lambda: (Swin(), SWIN_FEATURES),
    "tiny": lambda: (TinyVideo(), TINY_FEATURES),
}
"""Maps each value of model.video to a function that builds (backbone, F)."""


def input_normalisation(name: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Returns the mean and standard deviation of the frames that the weights of an encoder expect, in RGB.

    They are those of torchvision's Kinetics-400 weights. Batches always have VIDEO_MEAN and VIDEO_STD; an encoder
    whose weights expect others converts them.
    """
    return INPUT.get(name, (VIDEO_MEAN, VIDEO_STD))
