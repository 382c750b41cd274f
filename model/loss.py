"""The InfoNCE loss against a dictionary of negatives, and the retrieval of positives within a batch."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from model.encoder import OTHER_MODALITY

ROUNDING = 1e-6
"""Cosines that differ by less count as equal; summing in a different order changes a float32 sum by about as much."""


def info_nce(
    query: torch.Tensor,
    positive: torch.Tensor,
    negatives: torch.Tensor,
    *,
    temperature: float,
    mask: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Computes the mean cross-entropy of each query's positive against K negatives (MoCo, He et al. 2020, eq. 1).

    Args:
        query: [B, D] rows of unit length.
        positive: [B, D] rows of unit length; row i is the key of query i.
        negatives: [K, D] rows of unit length: the dictionary.
        temperature: divides the cosine similarities.
        mask: [B, K] bool, True where a dictionary row is not a negative of that query or is still empty.

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
        logits = torch.cat([positive_logits, negative_logits], dim=1)
        loss = F.cross_entropy(logits, logits.new_zeros(len(logits), dtype=torch.long))
    wins = positive_logits.detach() - negative_logits.detach() > ROUNDING / temperature
    accuracy = wins.all(dim=1).float().mean()
    return loss, accuracy


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
    for name, modality in (("v2a", "video"), ("a2v", "audio")):
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
