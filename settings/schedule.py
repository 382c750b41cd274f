"""The length of a run and its learning rate at each step."""

from __future__ import annotations

import math

from settings.schema import Config


def total_steps(config: Config, steps_per_epoch: int) -> int:
    """Returns the number of steps at which a run ends."""
    steps = config.train.epochs * steps_per_epoch
    return min(steps, config.train.steps) if config.train.steps else steps


def learning_rate(step: int, *, peak: float, warmup: int, total: int) -> float:
    """Returns the learning rate of a step: linear warm-up to `peak` in `warmup` steps, then cosine to 0 at `total`."""
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = (step - warmup) / max(1, total - warmup)
    return 0.5 * peak * (1 + math.cos(math.pi * min(1.0, progress)))
