"""BatchNorm of clips with the kernels that CUDA has for images, and replacing a network's BatchNorms."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


class FoldedTimeBatchNorm(_BatchNorm):
    """Mixin: normalises channels-last clips [B, C, T, H, W] as images [B, C, T * H, W], which changes no number.

    torch 2.11 has fast CUDA kernels for BatchNorm of channels-last images, but of clips it makes a float32 copy, and
    computes with kernels for any strides (`batch_norm_choose_impl` in aten/native/cuda/Normalization.cpp).
    """

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """[B, C, T, H, W] -> [B, C, T, H, W] of the same memory format."""
        if input.dim() == 5 and input.is_contiguous(memory_format=torch.channels_last_3d):
            # Not a view to autograd: behind one, a ReLU in place would copy whole activations in the backward pass.
            return torch.ops.aten._unsafe_view(super().forward(input.flatten(2, 3)), input.shape)
        return super().forward(input)


class ClipBatchNorm(FoldedTimeBatchNorm, nn.BatchNorm3d):
    """nn.BatchNorm3d with `FoldedTimeBatchNorm`."""

    def _check_input_dim(self, input: torch.Tensor) -> None:
        if input.dim() not in (4, 5):
            raise ValueError(f"expected clips of 5 dimensions, got {input.dim()}")


def replace_batchnorm(module: nn.Module, kind: type[_BatchNorm]) -> None:
    """Puts a BatchNorm of this kind in the place of every one within `module`; state dict names stay the same."""
    for name, child in module.named_children():
        if isinstance(child, _BatchNorm):
            other = kind(child.num_features, child.eps, child.momentum, child.affine, child.track_running_stats)
            other.load_state_dict(child.state_dict())
            for mine, theirs in zip(other.parameters(), child.parameters(), strict=True):
                mine.requires_grad_(theirs.requires_grad)
            setattr(module, name, other.train(child.training))
        else:
            replace_batchnorm(child, kind)
