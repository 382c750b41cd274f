"""The optimiser, its schedule, and a step that a bad gradient cannot spoil."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import nn

from settings import OptimConfig


def learning_rate(step: int, *, peak: float, warmup: int, total: int) -> float:
    """Linear warm-up to `peak` over `warmup` steps, then a cosine to zero at `total`."""
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = (step - warmup) / max(1, total - warmup)
    return 0.5 * peak * (1 + math.cos(math.pi * min(1.0, progress)))


def build_optimizer(parameters: Iterable[nn.Parameter], config: OptimConfig) -> torch.optim.Optimizer:
    """Fused AdamW or SGD; vectors (biases, BatchNorm) are not decayed."""
    trained = [p for p in parameters if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.dim() > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in trained if p.dim() <= 1], "weight_decay": 0.0},
    ]
    if config.name == "adamw":
        return torch.optim.AdamW(groups, lr=config.lr, fused=True)
    optimizer = torch.optim.SGD(groups, lr=config.lr, momentum=config.sgd_momentum, fused=True)
    if config.sgd_momentum:
        # torch's fused SGD makes them in its first step, and leaves whatever the memory held if that step is skipped.
        for parameter in trained:
            optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return optimizer


def update(optimizer: torch.optim.Optimizer, *, rate: float, clip_norm: float) -> torch.Tensor:
    """One optimiser step at the learning rate `rate`; skipped where the gradient is not finite.

    Args:
        clip_norm: largest norm of the gradient; 0 does not clip.

    Returns:
        The gradient's norm before clipping, 0-d.
    """
    for group in optimizer.param_groups:
        group["lr"] = rate
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    if clip_norm:
        nn.utils.clip_grads_with_norm_(parameters, clip_norm, norm)
    # GradScaler's own way of telling a fused optimiser to skip: the GPU decides, the host does not wait. The gradients
    # are already averaged over the ranks, so one rank's NaN is every rank's, and all skip together.
    optimizer.found_inf = (~torch.isfinite(norm)).float()  # type: ignore[attr-defined]
    optimizer.step()
    return norm.detach()
