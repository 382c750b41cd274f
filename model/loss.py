"""InfoNCE against a dictionary of negatives, its variants for false negatives, and retrieval within a batch."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from model.encoder import OTHER_MODALITY

DIRECTIONS = {"v2a": "video", "a2v": "audio"}
"""Name of a direction in the metrics -> modality of its queries."""

ROUNDING = 1e-6
"""Cosines that differ by less count as equal; summing in a different order changes a float32 sum by about as much."""


def info_nce(
    query: torch.Tensor,
    positive: torch.Tensor,
    negatives: torch.Tensor,
    *,
    temperature: float,
    mask: torch.Tensor | None = None,
    false_negatives: torch.Tensor | None = None,
    weights: torch.Tensor | None = None,
    debias: float = 0.0,
    hardness: float = 0.0,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Computes the mean cross-entropy of each query's positive against K negatives (MoCo, He et al. 2020, eq. 1).

    Args:
        query: [B, D] rows of unit length.
        positive: [B, D] rows of unit length; row i is the key of query i.
        negatives: [K, D] rows of unit length: the dictionary.
        temperature: divides the cosine similarities.
        mask: [B, K] bool, True where a dictionary row is not a negative of that query or is still empty.
        false_negatives: [B, K] bool, True where a negative leaves the loss; it still counts in the accuracy.
        weights: [K] positive factors of the negatives' exponentials; None: all 1. They do not change the accuracy.
        debias, hardness: see `_reweighted`; with 0 and 0 negatives count by their weights alone.

    Returns:
        The loss (scalar, float32, differentiable) and the accuracy (scalar): the share of queries whose positive
        scores higher than every negative. Ties count as misses, so that a collapsed encoder has accuracy 0 and not 1.

    Raises:
        ValueError: the shapes do not fit together, or the mask is not bool.
    """
    _check_shapes(query, positive, negatives, mask)
    # Cosines divided by a small temperature need more than bf16's 8 bits, so autocast is disabled.
    with torch.autocast(query.device.type, enabled=False):
        query, positive, negatives = query.float(), positive.float(), negatives.float()
        positive_logits = (query * positive).sum(dim=1, keepdim=True) / temperature  # [B, 1]
        negative_logits = query @ negatives.T / temperature  # [B, K]
        if mask is not None:
            negative_logits = negative_logits.masked_fill(mask, float("-inf"))
        others = negative_logits
        if false_negatives is not None:
            others = others.masked_fill(false_negatives, float("-inf"))
        log_weights = None if weights is None else weights.float().log()
        if debias or hardness:
            others = _reweighted(
                positive_logits, others, temperature, log_weights=log_weights, debias=debias, hardness=hardness
            )
        elif log_weights is not None:
            others = others + log_weights
        logits = torch.cat([positive_logits, others], dim=1)
        loss = F.cross_entropy(logits, logits.new_zeros(len(logits), dtype=torch.long))
    wins = positive_logits.detach() - negative_logits.detach() > ROUNDING / temperature
    accuracy = wins.all(dim=1).float().mean()
    return loss, accuracy


def _reweighted(
    positive: torch.Tensor,
    negatives: torch.Tensor,
    temperature: float,
    *,
    log_weights: torch.Tensor | None,
    debias: float,
    hardness: float,
) -> torch.Tensor:
    """Returns the log of what stands for the sum over the negatives in the denominator, [B, 1].

    Debiasing assumes that each negative belongs to the query's class with probability `debias` (Chuang et al. 2020,
    arXiv 2007.00224, eq. 8, with the positive as the only sample of that class). Hardness weighs negatives in
    proportion to exp(hardness · logit) (Robinson et al. 2021, arXiv 2010.04592, eq. 4); as in the authors' code the
    weights are differentiated too.

    Args:
        positive: [B, 1] logits.
        negatives: [B, K] logits, -inf where masked.
        log_weights: [K] logarithms of the negatives' weights, which multiply those of hardness; None: all 0.
    """
    missing = torch.isinf(negatives)
    count = (~missing).sum(dim=1, keepdim=True)
    # Two sums over the negatives; rows without any are excluded at the end, and get finite values until then.
    excluded = torch.zeros_like(negatives).masked_fill(missing & (count > 0), -math.inf)
    if log_weights is not None:
        excluded = excluded + log_weights
    logits = negatives.masked_fill(missing, 0.0)
    weighted = torch.logsumexp((1 + hardness) * logits + excluded, dim=1, keepdim=True)
    log_mean = weighted - torch.logsumexp(hardness * logits + excluded, dim=1, keepdim=True)
    # The mean of exp(logit) over true negatives is at least exp(-1 / temperature), as cosines are at least -1.
    shift = torch.maximum(log_mean, positive).detach()
    mean = (torch.exp(log_mean - shift) - debias * torch.exp(positive - shift)) / (1 - debias)
    floor = torch.exp(-1 / temperature - shift)
    total = shift + torch.log(torch.maximum(mean, floor)) + torch.log(count.clamp(min=1))
    return total.masked_fill(count == 0, -math.inf)


@torch.no_grad()
def outranks(query: torch.Tensor, positive: torch.Tensor, negatives: torch.Tensor) -> torch.Tensor:
    """Returns which negatives are more similar to a query than its own positive is, bool [B, K].

    Such a negative may be a false one, of the same content as the query. Shapes are those of `info_nce`.
    """
    query = query.float()
    own = (query * positive.float()).sum(dim=1, keepdim=True)
    return query @ negatives.float().T - own > ROUNDING


@torch.no_grad()
def nearest_rows(rows: torch.Tensor, keys: torch.Tensor, excluded: torch.Tensor, *, share: float) -> torch.Tensor:
    """Returns which keys are among the nearest `share` of those that a row may have, bool [B, K].

    Args:
        rows: [B, D] of unit length.
        keys: [K, D] of unit length.
        excluded: [B, K] bool, the keys that a row may not have; they are never among its nearest.
        share: fraction of the keys, in (0, 1); the number is rounded down.
    """
    cosines = (rows.float() @ keys.float().T).masked_fill(excluded, -math.inf)
    # Counts differ between rows and are known to the device only, so the most that any row needs are sorted.
    most = math.ceil(share * len(keys))
    counts = (share * (~excluded).sum(dim=1, keepdim=True)).long()
    farthest = cosines.topk(most, dim=1).values.gather(1, (counts - 1).clamp(min=0))
    return (cosines >= farthest) & ~excluded & (counts > 0)


@torch.no_grad()
def frequency_weights(
    query: torch.Tensor,
    positive: torch.Tensor,
    negatives: torch.Tensor,
    *,
    excluded: torch.Tensor,
    power: float,
    floor: float,
) -> torch.Tensor:
    """Weighs negatives by (floor + o) ** -power, where o is the share of the queries that a negative outranks.

    Twice that share estimates how frequent the content of a negative is (docs/method.md), so rare content weighs more.

    Args:
        query, positive: [M, D] rows of the whole batch, as in `info_nce`.
        negatives: [K, D] rows of unit length.
        excluded: [M, K] bool, the pairs that do not count. A row without any pair that counts has weight 1.

    Returns:
        float32 [K], of mean 1 over the rows with pairs that count.
    """
    counted = ~excluded
    pairs = counted.sum(dim=0)
    share = (outranks(query, positive, negatives) & counted).sum(dim=0) / pairs.clamp(min=1)
    weights, held = (floor + share) ** -power, pairs > 0
    mean = torch.where(held, weights, 0.0).sum() / held.sum().clamp(min=1)
    return torch.where(held, weights / mean, 1.0)


def cyclic_temperature(step: int, *, low: float, high: float, period: int) -> float:
    """Returns the temperature of a step: a cosine between `high`, at step 0, and `low`, half a period later.

    A high temperature spreads whole groups of similar clips, a low one tells clips of a group apart, which helps with
    long-tailed data (Kukleva et al. 2023, arXiv 2303.13664, eq. 5).
    """
    return low + (high - low) * (1 + math.cos(2 * math.pi * step / period)) / 2


@torch.no_grad()
def batch_retrieval(
    queries: dict[str, torch.Tensor], keys: dict[str, torch.Tensor], samples: torch.Tensor
) -> dict[str, torch.Tensor]:
    """Computes the share of queries whose positive key is the nearest of the batch's keys, in both directions.

    Args:
        queries, keys: [B, D] rows of unit length, per modality.
        samples: int64 [B], the sample of each clip; other clips of a query's sample are left out.

    Returns:
        retrieval_v2a and retrieval_a2v, 0-d.
    """
    own = torch.arange(len(samples), device=samples.device)
    others = (samples[:, None] == samples[None, :]) & (own[:, None] != own[None, :])
    found = {}
    for name, modality in DIRECTIONS.items():
        cosines = (queries[modality] @ keys[OTHER_MODALITY[modality]].T).masked_fill(others, -torch.inf)
        found[f"retrieval_{name}"] = (cosines.argmax(dim=1) == own).float().mean()
    return found


def _check_shapes(
    query: torch.Tensor, positive: torch.Tensor, negatives: torch.Tensor, mask: torch.Tensor | None
) -> None:
    if query.ndim != 2 or positive.shape != query.shape:
        raise ValueError(
            f"query and positive must both be [B, D], not {tuple(query.shape)} and {tuple(positive.shape)}"
        )
    if negatives.ndim != 2 or negatives.shape[1] != query.shape[1]:
        raise ValueError(f"negatives must be [K, {query.shape[1]}], not {tuple(negatives.shape)}")
    expected = (len(query), len(negatives))
    if mask is not None and (mask.shape != expected or mask.dtype != torch.bool):
        raise ValueError(f"mask must be bool {list(expected)}, not {mask.dtype} {list(mask.shape)}")
