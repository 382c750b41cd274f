"""torchvision's video transformers without their classifiers, for clips [B, 3, T, H, W] of any size.

Their state dict names are torchvision's without `head`. They convert the frames of a batch to the normalisation that
torchvision's weights were trained with (`INPUT`). Stochastic depth is off: every draw of a run is a function of the
seed and the clip, and a key and its query are compared without noise of their own.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from common.normalisation import VIDEO_MEAN, VIDEO_STD

INPUT = {
    "mvit_v2_s": ((0.45, 0.45, 0.45), (0.225, 0.225, 0.225)),
    "swin3d_t": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}
"""Mean and standard deviation of the frames that torchvision's Kinetics-400 weights expect, where they are not
VIDEO_MEAN and VIDEO_STD."""
MVIT_FEATURES = SWIN_FEATURES = 768


class Renormalise(nn.Module):
    """Converts frames [B, 3, T, H, W] from VIDEO_MEAN and VIDEO_STD to another mean and standard deviation."""

    scale: torch.Tensor
    shift: torch.Tensor

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        ours, theirs = torch.tensor([VIDEO_MEAN, VIDEO_STD]), torch.tensor([mean, std])
        # Not saved, so that the state dict is torchvision's.
        self.register_buffer("scale", ours[1] / theirs[1], persistent=False)
        self.register_buffer("shift", (ours[0] - theirs[0]) / theirs[1], persistent=False)

    def forward(self, video: torch.Tensor) -> torch.Tensor:
        return video * self.scale.view(3, 1, 1, 1) + self.shift.view(3, 1, 1, 1)


class MViT(nn.Module):
    """MViTv2-S (Li et al. 2022), torchvision's `mvit_v2_s`.

    Its tables of relative positions are those of 16 frames of 224 x 224 pixels, as in torchvision, and are
    interpolated linearly for clips of other sizes (by torchvision itself).
    """

    exports_any_length = False
    """Exported graphs have a fixed number of frames: torchvision computes sizes from it that ONNX cannot express."""

    channel_dim = -1
    """Dimension of the channels within the network: its layers map tokens [B, N, C]."""

    def __init__(self) -> None:
        super().__init__()
        # Imported where it is used, because it takes seconds to load.
        from torchvision.models.video import mvit_v2_s

        network = _without_stochastic_depth(mvit_v2_s(weights=None))
        self.normalise = Renormalise(*INPUT["mvit_v2_s"])
        self.conv_proj, self.pos_encoding = network.conv_proj, network.pos_encoding
        self.blocks, self.norm = network.blocks, network.norm

    def forward(self, video: torch.Tensor) -> torch.Tensor:
        """Maps [B, 3, T, H, W] to [B, 768]: the class token."""
        patches = self.conv_proj(self.normalise(video))
        # torchvision's forward takes the size that the network was built for instead.
        size = tuple(patches.shape[2:])
        tokens = self.pos_encoding(patches.flatten(2).transpose(1, 2))
        for block in self.blocks:
            tokens, size = block(tokens, size)
        return self.norm(tokens)[:, 0]


class Swin(nn.Module):
    """Video Swin-T (Liu et al. 2022), torchvision's `swin3d_t`; windows adapt to small clips."""

    exports_any_length = False
    """Exported graphs have a fixed number of frames: torchvision computes sizes from it that ONNX cannot express."""

    channel_dim = -1
    """Dimension of the channels within the network: its layers map grids [B, T, H, W, C]."""

    def __init__(self) -> None:
        super().__init__()
        from torchvision.models.video import swin3d_t

        network = _without_stochastic_depth(swin3d_t(weights=None))
        self.normalise = Renormalise(*INPUT["swin3d_t"])
        self.patch_embed = network.patch_embed
        # Lists, so that `model.layers` sees the blocks; the names stay the same.
        stages = [nn.ModuleList(part) if isinstance(part, nn.Sequential) else part for part in network.features]
        self.features = nn.ModuleList(stages)
        self.norm = network.norm

    def forward(self, video: torch.Tensor) -> torch.Tensor:
        """Maps [B, 3, T, H, W] to [B, 768]: the mean over time and space."""
        grid = self.patch_embed(self.normalise(video))
        for stage in self.features:
            for part in stage if isinstance(stage, nn.ModuleList) else [stage]:
                grid = part(grid)
        return self.norm(grid).mean(dim=(1, 2, 3))


def _without_stochastic_depth(network: Any) -> Any:
    from torchvision.ops import StochasticDepth

    for module in network.modules():
        if isinstance(module, StochasticDepth):
            module.p = 0.0
    return network
