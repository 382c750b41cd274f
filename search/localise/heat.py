"""Heat maps: how well each place of a clip goes with a sound."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

from model.encoder import CrossModalModel
from search.localise.feature_map import MapReader
from settings import Config

LONGER_SIDE = 40
"""Number of cells along the longer side of a frame."""


class Localiser:
    """Maps clips and sounds to heat maps.

    The heat of a place is the dot product of its projection (see `MapReader`) and the sound's embedding. Unlike their
    cosine it grows with the strength of the features: where nothing happens the features are weak and their direction
    means little. Each clip is also mirrored, and both maps are averaged, as zero padding makes a single map lopsided.

    Args:
        model: encoders in eval mode.
        config: settings of the run.

    Raises:
        ConfigError: the video encoder has no feature map.
    """

    def __init__(self, model: CrossModalModel, config: Config) -> None:
        self._reader = MapReader(model.query["video"], config)
        self._sound = model.query["audio"]

    @torch.no_grad()
    def sounds(self, audio: torch.Tensor) -> torch.Tensor:
        """Embeddings of log-mel spectrograms [B, 1, n_mels, F], float32 [B, D]."""
        return self._sound(audio).embedding

    def projections(self, video: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Projections of the places of clips [B, 3, T, S, S] and of the mirrored clips, each [B, T', H', W', D]."""
        return self._reader(video), self._reader(video.flip(-1))


def heat_maps(
    projections: tuple[torch.Tensor, torch.Tensor], sounds: torch.Tensor, *, rows: int, columns: int
) -> np.ndarray:
    """Heat of a grid of places that covers the clip's image, float32 [B, T', rows, columns].

    Map j along time belongs to frame j * T / T' of the clip.

    Args:
        projections: see `Localiser.projections`.
        sounds: embeddings of one sound per clip, [B, D].
    """
    plain, mirrored = (torch.einsum("bthwd,bd->bthw", places, sounds) for places in projections)
    return ((_sample(plain, rows, columns) + _sample(mirrored, rows, columns).flip(-1)) / 2).cpu().numpy()


def _sample(maps: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    """Interpolates maps [B, T', H', W'] at the centres of the cells of a grid, [B, T', rows, columns]."""

    def places(cells: int, count: int) -> torch.Tensor:
        # A convolution of odd width with stride s and padding keeps the first pixel in the centre of its first output:
        # place i is that of pixel i * s. As fractions of the image, pixels are too small to matter.
        where = (torch.arange(count, device=maps.device) + 0.5) / count * cells
        return (2 * where / max(cells - 1, 1) - 1).clamp(-1, 1)

    y, x = torch.meshgrid(places(maps.shape[2], rows), places(maps.shape[3], columns), indexing="ij")
    grid = torch.stack([x, y], dim=-1).expand(len(maps), -1, -1, -1)
    return F.grid_sample(maps, grid, mode="bilinear", padding_mode="border", align_corners=True)


def grid_shape(width: int, height: int) -> tuple[int, int]:
    """(rows, columns) of a grid of nearly square cells for a frame of this size; the longer side has LONGER_SIDE."""
    longer = max(width, height)
    return max(2, round(LONGER_SIDE * height / longer)), max(2, round(LONGER_SIDE * width / longer))
