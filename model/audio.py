"""Audio backbones, from log-mel spectrograms [B, 1, n_mels, frames] to features [B, F]."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from model.audio_transformer import SpectrogramViT

TINY_FEATURES = 256


class ResNet1d18(nn.Module):
    """ResNet-18 with 1-D convolutions over time; the mel bands are its input channels (the CM-ACC paper's encoder).

    Layers, widths, strides and state dict names are those of torchvision's `resnet18`, with one dimension fewer.
    """

    def __init__(self, *, n_mels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv1d(n_mels, 64, kernel_size=7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm1d(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool1d(kernel_size=3, stride=2, padding=1)
        self.layer1 = nn.Sequential(BasicBlock1d(64, 64, stride=1), BasicBlock1d(64, 64, stride=1))
        self.layer2 = nn.Sequential(BasicBlock1d(64, 128, stride=2), BasicBlock1d(128, 128, stride=1))
        self.layer3 = nn.Sequential(BasicBlock1d(128, 256, stride=2), BasicBlock1d(256, 256, stride=1))
        self.layer4 = nn.Sequential(BasicBlock1d(256, 512, stride=2), BasicBlock1d(512, 512, stride=1))
        _init_convolutions(self)

    def forward(self, audio: torch.Tensor) -> torch.Tensor:
        """Maps [B, 1, n_mels, frames] to [B, 512]."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(audio.squeeze(1)))))
        return self.layer4(self.layer3(self.layer2(self.layer1(x)))).mean(dim=2)


class BasicBlock1d(nn.Module):
    """Two convolutions of width 3 and a shortcut: the block of ResNet-18 (He et al. 2016)."""

    def __init__(self, inputs: int, outputs: int, *, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv1d(inputs, outputs, kernel_size=3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm1d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv1d(outputs, outputs, kernel_size=3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm1d(outputs)
        self.downsample = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(
                nn.Conv1d(inputs, outputs, kernel_size=1, stride=stride, bias=False), nn.BatchNorm1d(outputs)
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(x)) + shortcut)


class TinyAudio(nn.Sequential):
    """A network of four strided 2-D convolutions, small enough for CPUs.

    The time axis keeps four times the resolution of the mel axis.
    """

    def __init__(self) -> None:
        super().__init__(
            *_convolution(1, 32, kernel=5, stride=(4, 2)),
            *_convolution(32, 64, kernel=3, stride=(2, 2)),
            *_convolution(64, 128, kernel=3, stride=(2, 2)),
            *_convolution(128, TINY_FEATURES, kernel=3, stride=(2, 1)),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        )
        _init_convolutions(self)


def _convolution(inputs: int, outputs: int, *, kernel: int, stride: tuple[int, int]) -> tuple[nn.Module, ...]:
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
    return convolution, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)


def _init_convolutions(module: nn.Module) -> None:
    for child in module.modules():
        if isinstance(child, nn.Conv1d | nn.Conv2d):
            nn.init.kaiming_normal_(child.weight, mode="fan_out", nonlinearity="relu")


def _resnet18(n_mels: int) -> tuple[nn.Module, int]:
    # Imported where it is used, because it takes seconds to load.
    from torchvision.models import resnet18

    del n_mels  # 2-D convolutions accept any number of mel bands
    network = resnet18(weights=None)
    network.conv1 = nn.Conv2d(1, 64, kernel_size=7, stride=2, padding=3, bias=False)
    nn.init.kaiming_normal_(network.conv1.weight, mode="fan_out", nonlinearity="relu")
    features = network.fc.in_features
    network.fc = nn.Identity()
    return network, features


AUDIO_ENCODERS: dict[str, Callable[[int], tuple[nn.Module, int]]] = {
    "resnet1d_18": lambda n_mels: (ResNet1d18(n_mels=n_mels), 512),
    "resnet18": _resnet18,
    "vit_tiny": lambda n_mels: (SpectrogramViT(dim=192, depth=12, heads=3), 192),
    "vit_small": lambda n_mels: (SpectrogramViT(dim=384, depth=12, heads=6), 384),
    "tiny": lambda n_mels: (TinyAudio(), TINY_FEATURES),
}
"""Maps each value of model.audio to a function of n_mels that builds (backbone, F)."""
