"""The loss of a step: InfoNCE in both directions, each against the dictionary of the other modality."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch

from model.encoder import OTHER_MODALITY
from model.loss import DIRECTIONS, cyclic_temperature, info_nce, nearest_rows, outranks
from settings import LossConfig

Tensors = Mapping[str, torch.Tensor]


class Negatives(NamedTuple):
    """The dictionary of one modality, as the loss sees it."""

    keys: torch.Tensor
    """[K, D] rows of unit length."""
    partners: torch.Tensor | None
    """[K, D] keys of the same clips in the other modality; needed if `LossConfig.needs_partners`."""
    excluded: torch.Tensor
    """[B, K] bool, the rows that are no negatives of a clip: empty ones and its own."""
    weights: torch.Tensor | None = None
    """[K] weights of the rows, of mean 1; None: all 1."""


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
        The loss (scalar, differentiable), and metrics as 0-d tensors: loss and accuracy of each direction; unless
        config.false_negatives is keep, the share of its negatives that were left out as false; and with weights, their
        effective number (Kish: the squared sum over the sum of squares) as a share of the rows.
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
            false = _false_negatives(queries, keys, negatives[other], modality, config) & ~excluded
            metrics[f"false_negatives_{name}"] = false.sum() / (~excluded).sum().clamp(min=1)
        weights = negatives[other].weights
        if weights is not None:
            metrics[f"effective_{name}"] = weights.mean() ** 2 / (weights**2).mean()
        loss, metrics[f"accuracy_{name}"] = info_nce(
            queries[modality],
            keys[other],
            negatives[other].keys,
            temperature=temperature,
            mask=excluded,
            false_negatives=false,
            weights=weights,
            debias=config.debias,
            hardness=config.hardness,
        )
        metrics[f"loss_{name}"] = loss.detach()
        losses.append(loss)
    total = losses[0] + losses[1]
    return total, metrics | {"loss": total.detach()}


def _false_negatives(
    queries: Tensors, keys: Tensors, negatives: Negatives, modality: str, config: LossConfig
) -> torch.Tensor:
    """Returns which rows of the dictionary count as false negatives of each clip, bool [B, K].

    A false negative has the content of the clip, so it should be more similar to the clip than the clip's own positive
    about half of the time in each direction, independently; a hard negative is only by two accidents at once. By
    agreement, it should be near the clip in both modalities, compared with other negatives.

    Args:
        modality: that of the queries.
    """
    other = OTHER_MODALITY[modality]
    if config.false_negatives == "one_way":
        return outranks(queries[modality], keys[other], negatives.keys)
    assert negatives.partners is not None
    if config.false_negatives == "two_way":
        found = outranks(queries[modality], keys[other], negatives.keys)
        return found & outranks(queries[other], keys[modality], negatives.partners)
    near, excluded = config.agreement, negatives.excluded
    found = nearest_rows(keys[other], negatives.keys, excluded, share=near)
    return found & nearest_rows(keys[modality], negatives.partners, excluded, share=near)
