"""A vision transformer on log-mel spectrograms [B, 1, n_mels, frames]."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

PATCH = 16
"""Height (mel bands) and width (frames) of a patch."""


class Block(nn.Module):
    """A pre-norm transformer block; torch's own layer cannot be exported for any number of clips."""

    def __init__(self, *, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.qkv, self.projection = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.linear1, self.linear2 = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Maps [B, N, C] to [B, N, C]."""
        parts = self.qkv(self.norm1(tokens)).unflatten(2, (3, self.heads, -1))  # [B, N, 3, heads, C / heads]
        query, key, value = parts.permute(2, 0, 3, 1, 4).unbind()
        attended = F.scaled_dot_product_attention(query, key, value)  # [B, heads, N, C / heads]
        tokens = tokens + self.projection(attended.transpose(1, 2).flatten(2))
        return tokens + self.linear2(F.gelu(self.linear1(self.norm2(tokens))))


class SpectrogramViT(nn.Module):
    """A vision transformer on the patches of a spectrogram, like AST (Gong et al. 2021, arXiv 2104.01778).

    As in AST, a patch covers 16 bands and 16 frames. Unlike AST's, patches do not overlap, positions are fixed
    sine-cosine vectors (as in MAE, He et al. 2022) and the features are the mean of all tokens instead of a class
    token's: so the same weights take spectrograms of any length and any number of bands. Both sides are padded with
    zeros, the level `audio.mean_db`, to multiples of 16. There is no dropout.

    Args:
        dim: width of the tokens, a multiple of 4 and of `heads`.
        depth: number of blocks.
        heads: number of attention heads.
    """

    channel_dim = -1
    """Dimension of the channels within the network: its layers map tokens [B, N, C]."""

    def __init__(self, *, dim: int, depth: int, heads: int) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, dim, kernel_size=PATCH, stride=PATCH)
        self.blocks = nn.ModuleList(Block(dim=dim, heads=heads) for _ in range(depth))
        self.norm = nn.LayerNorm(dim)
        for name, parameter in self.named_parameters():
            # As in DeiT, from which AST starts; LayerNorm keeps its ones.
            if parameter.dim() > 1:
                nn.init.trunc_normal_(parameter, std=0.02)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)

    def forward(self, audio: torch.Tensor) -> torch.Tensor:
        """Maps [B, 1, n_mels, frames] to [B, dim]."""
        bands, frames = audio.shape[2:]
        patches = self.patches(F.pad(audio, (0, -frames % PATCH, 0, -bands % PATCH)))
        rows, columns = patches.shape[2:]
        positions = grid_positions(rows, columns, dim=patches.shape[1], device=audio.device)
        tokens = patches.flatten(2).transpose(1, 2) + positions
        for block in self.blocks:
            tokens = block(tokens)
        return self.norm(tokens).mean(dim=1)


def grid_positions(rows: int, columns: int, *, dim: int, device: torch.device | str = "cpu") -> torch.Tensor:
    """Returns the sine-cosine positions of a grid, float32 [rows * columns, dim], row by row.

    The first half of a vector encodes the row and the second half the column, each by sines and then cosines of
    geometrically spaced frequencies from 1 to 1/10000.

    Args:
        dim: a multiple of 4.
    """
    frequencies = 10000.0 ** -(torch.arange(dim // 4, device=device) / (dim // 4))

    def encode(places: torch.Tensor) -> torch.Tensor:
        angles = places[:, None] * frequencies
        return torch.cat([angles.sin(), angles.cos()], dim=1)

    row, column = encode(torch.arange(rows, device=device)), encode(torch.arange(columns, device=device))
    # Expanded, not repeated, so that the grid's size may stay open in exported graphs.
    grid = torch.cat([row[:, None].expand(-1, columns, -1), column[None].expand(rows, -1, -1)], dim=2)
    return grid.flatten(0, 1)
