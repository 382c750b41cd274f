"""The loss of a step: InfoNCE in both directions, each against the dictionary of the other modality."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch

from model.encoder import OTHER_MODALITY
from model.loss import DIRECTIONS, cyclic_temperature, info_nce, outranks
from settings import LossConfig

Tensors = Mapping[str, torch.Tensor]


class Negatives(NamedTuple):
    """The dictionary of one modality, as the loss sees it."""

    keys: torch.Tensor
    """[K, D] rows of unit length."""
    partners: torch.Tensor | None
    """[K, D] keys of the same clips in the other modality; needed for loss.false_negatives=two_way."""
    excluded: torch.Tensor
    """[B, K] bool, the rows that are no negatives of a clip: empty ones and its own."""


def symmetric_loss(
    queries: Tensors,
    keys: Tensors,
    negatives: Mapping[str, Negatives],
    *,
    config: LossConfig,
    step: int,
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Computes the sum of both directions' losses.

    Args:
        queries, keys: modality -> [B, D] rows of unit length.
        negatives: modality -> the negatives of the other modality's queries.
        step: number of the step, for loss.temperature_high.

    Returns:
        The loss (scalar, differentiable), and metrics as 0-d tensors: loss and accuracy of each direction and, unless
        config.false_negatives is keep, the share of its negatives that were left out as false.
    """
    temperature, high = config.temperature, config.temperature_high
    if high is not None:
        temperature = cyclic_temperature(step, low=temperature, high=high, period=config.temperature_period)
    losses, metrics = [], {}
    for name, modality in DIRECTIONS.items():
        other = OTHER_MODALITY[modality]
        excluded = negatives[other].excluded
        false = None
        if config.false_negatives != "keep":
            false = _outranking(queries, keys, negatives[other], modality, config) & ~excluded
            metrics[f"false_negatives_{name}"] = false.sum() / (~excluded).sum().clamp(min=1)
        loss, metrics[f"accuracy_{name}"] = info_nce(
            queries[modality],
            keys[other],
            negatives[other].keys,
            temperature=temperature,
            mask=excluded,
            false_negatives=false,
            debias=config.debias,
            hardness=config.hardness,
        )
        metrics[f"loss_{name}"] = loss.detach()
        losses.append(loss)
    total = losses[0] + losses[1]
    return total, metrics | {"loss": total.detach()}


def _outranking(
    queries: Tensors, keys: Tensors, negatives: Negatives, modality: str, config: LossConfig
) -> torch.Tensor:
    """Returns which rows of the dictionary count as false negatives of each clip, bool [B, K].

    A false negative has the content of the clip, so it should be more similar to the clip than the clip's own positive
    about half of the time in each direction, independently; a hard negative is only by two accidents at once.

    Args:
        modality: that of the queries.
    """
    other = OTHER_MODALITY[modality]
    found = outranks(queries[modality], keys[other], negatives.keys)
    if config.false_negatives == "two_way":
        assert negatives.partners is not None
        found &= outranks(queries[other], keys[modality], negatives.partners)
    return found
