"""BatchNorm with the statistics of the global batch, on GPUs and CPUs.

On a GPU this is torch.nn.SyncBatchNorm. That class refuses CPU tensors, so CPUs use an implementation of the same
formulas: without it two gloo processes could not train the same model as one process.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm  # torch-private: base class of all BatchNorms

from model.batchnorm import FoldedTimeBatchNorm, replace_batchnorm
from training.nonfinite import flatten_buffers, restore_buffers


class _SumOverRanks(torch.autograd.Function):
    """The sum of every rank's tensor, equal on all ranks; so is the sum of every rank's gradient of it."""

    @staticmethod
    def forward(ctx: Any, value: torch.Tensor) -> torch.Tensor:
        total = value.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        return _SumOverRanks.forward(ctx, gradient)


class GlooSyncBatchNorm(_BatchNorm):
    """BatchNorm whose training statistics are computed over all ranks' samples (same results as nn.SyncBatchNorm)."""

    def _check_input_dim(self, input: torch.Tensor) -> None:  # torch-private: called by _BatchNorm.forward
        if input.dim() < 2:
            raise ValueError(f"expected at least 2 dimensions, got {input.dim()}")

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Normalises [B, C, ...] per channel; in training over the samples of all ranks."""
        if not (self.training and dist.is_initialized()):
            return super().forward(input)
        dims = [0, *range(2, input.dim())]
        count = input.numel() // input.shape[1] * dist.get_world_size()
        # Two passes: E[x^2] - E[x]^2 in one pass is too inexact to equal the result of one process.
        mean = _SumOverRanks.apply(input.sum(dims)) / count
        shape = [1, -1] + [1] * (input.dim() - 2)
        centred = input - mean.view(shape)
        variance = _SumOverRanks.apply(centred.square().sum(dims)) / count
        if self.track_running_stats:
            self._update_running_statistics(mean.detach(), variance.detach() * count / max(count - 1, 1))
        normalised = centred * torch.rsqrt(variance + self.eps).view(shape)
        if not self.affine:
            return normalised
        return normalised * self.weight.view(shape) + self.bias.view(shape)

    @torch.no_grad()
    def _update_running_statistics(self, mean: torch.Tensor, variance: torch.Tensor) -> None:
        assert self.num_batches_tracked is not None
        assert self.running_mean is not None
        assert self.running_var is not None
        self.num_batches_tracked.add_(1)
        momentum = self.momentum if self.momentum is not None else 1.0 / float(self.num_batches_tracked)
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), momentum)
        self.running_var.lerp_(variance.to(self.running_var.dtype), momentum)


class GpuSyncBatchNorm(FoldedTimeBatchNorm, nn.SyncBatchNorm):
    """torch.nn.SyncBatchNorm that normalises as `FoldedTimeBatchNorm` does."""


def synchronise_batchnorm(module: nn.Module, device: torch.device) -> None:
    """Replaces every BatchNorm in `module` with one over all ranks; state dict names stay the same."""
    replace_batchnorm(module, GpuSyncBatchNorm if device.type == "cuda" else GlooSyncBatchNorm)


def running_statistics(module: nn.Module) -> list[torch.Tensor]:
    """Returns the running means and variances of every BatchNorm in `module` that training updates."""
    norms = [norm for norm in module.modules() if isinstance(norm, _BatchNorm) and norm.training]
    return [t for norm in norms for t in (norm.running_mean, norm.running_var) if t is not None]


@torch.no_grad()
def average_over_ranks(statistics: list[torch.Tensor]) -> None:
    """Replaces each rank's statistics by the mean over all ranks, in one collective; does nothing for an empty list."""
    if statistics:
        flat = flatten_buffers(statistics)
        dist.all_reduce(flat)
        restore_buffers(statistics, flat / dist.get_world_size())
