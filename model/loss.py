"""InfoNCE against a dictionary."""

from __future__ import annotations

import torch
import torch.nn.functional as F

# Cosines closer than this are a tie: float32 sums in another order differ by about as much.
ROUNDING = 1e-6


def info_nce(
    query: torch.Tensor,
    positive: torch.Tensor,
    negatives: torch.Tensor,
    *,
    temperature: float,
    mask: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean cross-entropy of each query's positive against K negatives (MoCo, He et al. 2020, equation 1).

    Args:
        query: [B, D] rows of unit length.
        positive: [B, D], row i is the key that belongs to query i.
        negatives: [K, D] dictionary.
        temperature: divides the cosine similarities.
        mask: [B, K] bool, True where a dictionary entry is not a negative of that query (or is still empty).

    Returns:
        The loss (scalar, float32, differentiable) and the accuracy (scalar): the share of queries whose positive
        scores higher than every negative. Ties count as lost, so that a collapsed encoder shows 0 and not 1.

    Raises:
        ValueError: shapes that do not fit together.
    """
    _check_shapes(query, positive, negatives, mask)
    # Cosines over a small temperature need more than bf16's 8 bits: autocast would round them.
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
