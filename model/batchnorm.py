"""BatchNorm that normalises video clips with CUDA's fast kernels for images, and a function that installs it."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm  # torch-private: base class of all BatchNorms


class FoldedTimeBatchNorm(_BatchNorm):
    """Mixin that normalises channels-last clips [B, C, T, H, W] as images [B, C, T * H, W], with identical results.

    torch 2.11 has fast CUDA kernels for BatchNorm of channels-last images, but not of clips: those it copies to float32
    and normalises with kernels for arbitrary strides (`batch_norm_choose_impl` in aten/native/cuda/Normalization.cpp).
    """

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Normalises [B, C, T, H, W] per channel and keeps the memory format."""
        if input.dim() == 5 and input.is_contiguous(memory_format=torch.channels_last_3d):
            normalised = super().forward(input.flatten(2, 3))
            # After a view, the backward pass of an in-place ReLU would copy the activations.
            return torch.ops.aten._unsafe_view(normalised, input.shape)  # torch-private: autograd sees no view
        return super().forward(input)


class ClipBatchNorm(FoldedTimeBatchNorm, nn.BatchNorm3d):
    """nn.BatchNorm3d that normalises as `FoldedTimeBatchNorm` does."""

    def _check_input_dim(self, input: torch.Tensor) -> None:  # torch-private: called by _BatchNorm.forward
        if input.dim() not in (4, 5):  # 4: forward passes channels-last clips on as images
            raise ValueError(f"expected clips of 5 dimensions, got {input.dim()}")


def replace_batchnorm(module: nn.Module, kind: type[_BatchNorm]) -> None:
    """Replaces every BatchNorm within `module` with one of class `kind`; state dict names stay the same."""
    for name, child in module.named_children():
        if isinstance(child, _BatchNorm):
            other = kind(child.num_features, child.eps, child.momentum, child.affine, child.track_running_stats)
            other.load_state_dict(child.state_dict())
            for mine, theirs in zip(other.parameters(), child.parameters(), strict=True):
                mine.requires_grad_(theirs.requires_grad)
            setattr(module, name, other.train(child.training))
        else:
            replace_batchnorm(child, kind)
