"""Projection heads, from features [B, F] to (input of the last layer [B, H], projection [B, D])."""

from __future__ import annotations

import torch
from torch import nn


class LinearHead(nn.Module):
    """One linear layer (the paper's fully connected layer), so H = F."""

    def __init__(self, *, features: int, hidden: int, dim: int, batchnorm: bool) -> None:
        super().__init__()
        del hidden  # a linear head has no hidden layer; HEADS share one signature
        self.last = nn.Linear(features, dim, bias=not batchnorm)
        self.norm = output_norm(dim, batchnorm)

    def forward(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return features, self.norm(self.last(features))


class MLPHead(nn.Module):
    """Linear, BatchNorm, ReLU, linear (SimCLR, Chen et al. 2020)."""

    def __init__(self, *, features: int, hidden: int, dim: int, batchnorm: bool) -> None:
        super().__init__()
        self.hidden = nn.Sequential(
            nn.Linear(features, hidden, bias=False), nn.BatchNorm1d(hidden), nn.ReLU(inplace=True)
        )
        self.last = nn.Linear(hidden, dim, bias=not batchnorm)
        self.norm = output_norm(dim, batchnorm)

    def forward(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        hidden = self.hidden(features)
        return hidden, self.norm(self.last(hidden))


def output_norm(dim: int, batchnorm: bool) -> nn.Module:
    """Builds BatchNorm without affine parameters, or the identity.

    With a dictionary of past keys, the encoders could lower the loss by letting all keys drift together, so that a
    positive differs from the negatives merely by its age. Centring each batch removes that shortcut.
    """
    return nn.BatchNorm1d(dim, affine=False) if batchnorm else nn.Identity()


HEADS: dict[str, type[LinearHead] | type[MLPHead]] = {"linear": LinearHead, "mlp": MLPHead}
"""Maps each value of model.head to its class."""
