"""The model of the experiments: the product's encoders around a network small enough for hundreds of CPU trials."""

from __future__ import annotations

import math

import torch
from torch import nn

from experiments.corpora.pairs import Pairs
from model.encoder import CrossModalModel, Encoder
from model.heads import HEADS
from settings import ModelConfig

FEATURES = 256


class SmallNet(nn.Module):
    """Two strided convolutions and a linear layer: [B, 3, T, H, W] or [B, 1, M, F] to [B, 256].

    Frames are channels. Unlike the product's `tiny` it keeps spatial positions, and a step takes a tenth of the time.
    """

    def __init__(self, *, frames: int, height: int, width: int) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(
            nn.Conv2d(frames, 32, kernel_size=6, stride=4, padding=1, bias=False),
            nn.BatchNorm2d(32),
            nn.ReLU(inplace=True),
            nn.Conv2d(32, 64, kernel_size=3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(64),
            nn.ReLU(inplace=True),
        )
        # The first convolution leaves (n + 2 - 6) // 4 + 1 positions per side, the second half of them, rounded up.
        places = math.prod(((side - 4) // 4 + 2) // 2 for side in (height, width))
        self.last = nn.Sequential(
            nn.Flatten(), nn.Linear(64 * places, FEATURES, bias=False), nn.BatchNorm1d(FEATURES), nn.ReLU(inplace=True)
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, clips: torch.Tensor) -> torch.Tensor:
        # The three colour channels of a grey video are equal, so one suffices.
        frames = clips[:, 0] if clips.ndim == 5 else clips
        return self.last(self.convolutions(frames))


def build_small_model(config: ModelConfig, pairs: Pairs, *, seed: int) -> CrossModalModel:
    """Query and momentum encoders for the corpus; heads, embedding size and momentum come from the configuration."""
    _, frames, height, width = pairs.video.shape
    _, mels, length = pairs.audio.shape
    shapes = {"video": (frames, height, width), "audio": (1, mels, length)}
    query = {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for modality, (channels, rows, columns) in shapes.items():
            head = HEADS[config.head](
                features=FEATURES, hidden=config.hidden, dim=config.dim, batchnorm=config.head_batchnorm
            )
            backbone = SmallNet(frames=channels, height=rows, width=columns)
            query[modality] = Encoder(backbone=backbone, head=head)
    return CrossModalModel(query=query, momentum=config.momentum, cross_modal_fc=config.cross_modal_fc)
