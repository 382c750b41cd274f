"""What to do with inputs that have no answer: one policy for all samplers.

Rows that are not finite are masked and counted. More asked for than there is gives all there is. When the law has no
mass left (all remaining rows coincide with a pick) the rest is filled uniformly from what is not chosen. Nothing is
picked twice, nothing raises in the middle of a run, and the statistics say what happened.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sampler.base import Candidates, Selection


def usable_rows(candidates: Candidates, squared_norms: Tensor) -> tuple[Tensor, int]:
    """Rows that are valid and finite ([N] bool), and how many valid ones are not finite."""
    usable = candidates.valid & torch.isfinite(squared_norms)
    return usable, int((candidates.valid & ~usable).sum())


def random_order(count: int, generator: torch.Generator, device: torch.device) -> Tensor:
    """A random permutation of range(count), the same on every device."""
    return torch.randperm(count, generator=generator).to(device)


def fill_uniformly(usable: Tensor, chosen: Tensor, k: int, generator: torch.Generator) -> Tensor:
    """Up to k usable rows that are not among the chosen, uniformly at random, int64."""
    if k <= 0:
        return chosen.new_empty(0)
    free = usable.clone()
    free[chosen] = False
    rows = free.nonzero().squeeze(1)
    return rows[random_order(len(rows), generator, rows.device)[:k]]


def top_rows(score: Tensor, usable: Tensor, k: int) -> Tensor:
    """The k usable rows of the largest score, best first; fewer if there are not as many, int64."""
    k = min(k, int(usable.sum()))
    score = torch.where(usable, score.nan_to_num(neginf=torch.finfo(score.dtype).min), -torch.inf)
    return score.topk(k).indices


def make_selection(indices: Tensor, distances: Tensor | None, k: int, *, invalid: int, **stats: float) -> Selection:
    """A Selection with the statistics that all samplers report. k is what was asked for."""
    if distances is None:
        distances = torch.zeros(len(indices), device=indices.device)
    common = {"selected": len(indices), "missing": max(k - len(indices), 0), "invalid": invalid}
    return Selection(indices=indices, distances=distances, stats={**common, **stats})
