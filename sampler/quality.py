"""Quality of a selection. Each measure costs about as much as a selection, so it is computed only on request."""

from __future__ import annotations

import torch
from torch import Tensor

from sampler.base import Candidates
from sampler.d2.dense_bounds import DenseBounds
from sampler.d2.distance import squared_distances, squared_norms
from sampler.d2.distribution import starting_distances

NEAR_DUPLICATE = 0.01
"""Two rows are near-duplicates if their squared distance is below this share of the larger squared norm."""


def phi(candidates: Candidates, indices: Tensor) -> float:
    """Returns the sum over the usable rows of D² to the nearest pick; lower means a better covering."""
    norms = squared_norms(candidates)
    d2 = starting_distances(norms, candidates.valid & torch.isfinite(norms))
    bounds = DenseBounds(candidates, norms)
    for block in indices.split(512):
        bounds.lower(d2, candidates.rows(block), norms[block])
    return float(d2.sum(dtype=torch.float64))


def near_duplicate_share(candidates: Candidates, indices: Tensor) -> float:
    """Returns the share of the picks that have a near-duplicate among the other picks."""
    if len(indices) < 2:
        return 0.0
    picks = candidates.rows(indices)
    norms = squared_norms(picks)
    near = torch.zeros(len(indices), dtype=torch.bool, device=norms.device)
    for start in range(0, len(indices), 1024):
        rows = slice(start, start + 1024)
        d2 = squared_distances(picks.rows(rows), norms[rows], picks, norms)
        d2.diagonal(start).fill_(torch.inf)
        near[rows] = (d2 < NEAR_DUPLICATE * torch.maximum(norms[rows, None], norms)).any(1)
    return float(near.float().mean())
