"""The optimiser, and an optimiser step that is skipped if the gradient is not finite."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn

from settings import ConfigError, OptimConfig


def weight_decay_groups(parameters: Iterable[nn.Parameter], **options: float) -> list[dict[str, Any]]:
    """Splits the trainable parameters into optimiser groups: matrices and kernels with weight decay, vectors without.

    Vectors are biases and the parameters of BatchNorm. A group without parameters is left out.

    Args:
        options: `weight_decay` and any further options of both groups, such as `lr`.
    """
    trained = [p for p in parameters if p.requires_grad]
    groups = [
        {**options, "params": [p for p in trained if p.dim() > 1]},
        {**options, "params": [p for p in trained if p.dim() <= 1], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def build_optimizer(
    parameters: Iterable[nn.Parameter], config: OptimConfig, *, factors: Mapping[nn.Parameter, float] | None = None
) -> torch.optim.Optimizer:
    """Builds fused AdamW or SGD with `weight_decay_groups`.

    Args:
        factors: learning-rate multiplier of each parameter; None or empty: 1 for all. Each multiplier has up to two
            groups, in the order in which the multipliers first occur.

    Raises:
        ConfigError: no parameter is trainable.
    """
    by_factor: dict[float, list[nn.Parameter]] = {}
    for parameter in parameters:
        by_factor.setdefault(factors[parameter] if factors else 1.0, []).append(parameter)
    groups = []
    for factor, some in by_factor.items():
        # Without factors the groups are as in checkpoints from before there were any; `update` then takes 1.
        options = {"factor": factor} if factors else {}
        groups += weight_decay_groups(some, weight_decay=config.weight_decay, **options)
    if not groups:
        raise ConfigError("optim.freeze lists every part of both encoders that has weights: nothing would be trained")
    if config.name == "adamw":
        return torch.optim.AdamW(groups, lr=config.lr, fused=True)
    optimizer = torch.optim.SGD(groups, lr=config.lr, momentum=config.sgd_momentum, fused=True)
    if config.sgd_momentum:
        # torch's fused SGD allocates the momentum buffers in its first step, and leaves them uninitialised if that step
        # is skipped (see `update`).
        for group in groups:
            for parameter in group["params"]:
                optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return optimizer


def update(optimizer: torch.optim.Optimizer, *, rate: float, clip_norm: float) -> torch.Tensor:
    """Takes one optimiser step at the learning rate `rate`, times the factor of each group that has one.

    The step is skipped if the gradient is not finite.

    Args:
        clip_norm: maximum norm of the gradient; 0 does not clip.

    Returns:
        The gradient's norm before clipping, 0-d.
    """
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get("factor", 1.0)
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    if clip_norm:
        nn.utils.clip_grads_with_norm_(parameters, clip_norm, norm)
    # A fused optimiser skips the step if found_inf is 1 (GradScaler uses the same mechanism): the GPU decides and the
    # host does not wait. Gradients are already averaged over the ranks, so a NaN on one rank is on all, and all skip.
    finite = torch.isfinite(norm)
    optimizer.found_inf = (~finite).float()  # type: ignore[attr-defined]  # torch-private: how a fused step is skipped
    optimizer.step()
    return norm.detach()
