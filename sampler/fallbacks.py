"""The policy of all samplers for degenerate input, and the helpers that implement it.

Rows that are not finite are masked and counted. A request for more rows than there are returns all of them. When the
D² distribution has no mass left (all remaining rows coincide with a pick or a row of the dictionary), the remaining
picks are drawn uniformly from the rows that are not chosen. No row is picked twice, no such input raises an error, and
the statistics report each case.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sampler.base import Candidates, Selection


def usable_rows(candidates: Candidates, squared_norms: Tensor) -> tuple[Tensor, int]:
    """Returns which rows are valid and have a finite squared norm, bool [N], and how many valid rows have not."""
    usable = candidates.valid & torch.isfinite(squared_norms)
    return usable, int((candidates.valid & ~usable).sum())


def random_order(count: int, generator: torch.Generator, device: torch.device) -> Tensor:
    """Returns a random permutation of range(count), the same on every device."""
    return torch.randperm(count, generator=generator).to(device)


def fill_uniformly(usable: Tensor, chosen: Tensor, k: int, generator: torch.Generator) -> Tensor:
    """Returns up to k usable row numbers, drawn uniformly; neither they nor `chosen`, both int64, hold a row twice."""
    if k <= 0:
        return chosen.new_empty(0)
    free = usable.clone()
    free[chosen] = False
    rows = free.nonzero().squeeze(1)
    return rows[random_order(len(rows), generator, rows.device)[:k]]


def top_rows(score: Tensor, usable: Tensor, k: int) -> Tensor:
    """Returns the k usable rows with the largest score [N], largest first, int64; all of them if there are fewer.

    A usable row whose score is NaN or infinite comes last.
    """
    k = min(k, int(usable.sum()))
    lowest = torch.finfo(score.dtype).min
    score = torch.where(usable, score.nan_to_num(nan=lowest, posinf=lowest, neginf=lowest), -torch.inf)
    return score.topk(k).indices


def make_selection(indices: Tensor, distances: Tensor | None, k: int, *, invalid: int, **stats: float) -> Selection:
    """Builds a Selection with the statistics that all samplers report; k is the number of rows requested."""
    if distances is None:
        distances = torch.zeros(len(indices), device=indices.device)
    common = {"selected": len(indices), "missing": max(k - len(indices), 0), "invalid": invalid}
    return Selection(indices=indices, distances=distances, stats={**common, **stats})
