"""Farthest-first traversal (Gonzalez, 1985): each pick is the row farthest from the picks so far."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sampler.base import Candidates, Selection
from sampler.d2.dense_bounds import DenseBounds
from sampler.d2.distance import floor_to_zero, squared_distances, squared_norms
from sampler.d2.distribution import First, condition, draw_rows, first_weight, starting_distances
from sampler.fallbacks import fill_uniformly, make_selection, usable_rows

_BLOCK = 256


@dataclass(kw_only=True)
class KCenter:
    """Greedy k-center, exactly: covers the pool, outliers first.

    Stale distances are upper bounds, so the farthest of a block of the stalely farthest rows is the farthest of all as
    long as it is farther than the best row outside the block: many picks share one pass over the pool.
    """

    first: First = "uniform"
    """Law of the first pick, the only random one."""

    def select(
        self, candidates: Candidates, k: int, *, generator: torch.Generator, dictionary: Candidates | None = None
    ) -> Selection:
        norms = squared_norms(candidates)
        usable, invalid = usable_rows(candidates, norms)
        k_possible = min(k, int(usable.sum()))
        bounds, pairs = DenseBounds(candidates, norms), 0
        d2 = condition(starting_distances(norms, usable), candidates, norms, dictionary)
        indices = torch.empty(0, dtype=torch.int64, device=norms.device)
        distances = torch.empty(0, device=norms.device)
        if k_possible and torch.isinf(d2).any():
            uniform = torch.rand(1, dtype=torch.float64, generator=generator).to(norms.device)
            picks, at_pick = draw_rows(first_weight(self.first, norms, usable), uniform), d2.new_full((1,), torch.inf)
        else:
            picks, at_pick = indices, distances
        while True:
            indices, distances = torch.cat([indices, picks]), torch.cat([distances, at_pick])
            if len(indices) == k_possible:
                break
            if len(picks):
                pairs += bounds.lower(d2, candidates.rows(picks), norms[picks])
                d2[picks] = 0.0
            picks, at_pick = _farthest(candidates, norms, d2, k_possible - len(indices))
            if len(picks) == 0:
                break
        rest = fill_uniformly(usable, indices, k_possible - len(indices), generator)
        return make_selection(
            torch.cat([indices, rest]),
            torch.cat([distances, torch.zeros(len(rest), device=norms.device)]),
            k,
            invalid=invalid,
            uniform_fill=len(rest),
            pairs=pairs,
        )


def _farthest(candidates: Candidates, norms: Tensor, d2: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Up to k rows in farthest-first order and their D², as many as one block can decide; none if all D² are 0."""
    bound, rows = d2.topk(min(_BLOCK + 1, len(d2)))
    outside = float(bound[-1]) if len(rows) < len(d2) else 0.0
    block, block_norms = candidates.rows(rows), norms[rows]
    between = floor_to_zero(squared_distances(block, block_norms, block, block_norms), block_norms)
    # One pick waits for the one before: on the host, in NumPy, it costs microseconds, on a device a round trip each.
    current, to_pick = bound.cpu().numpy().copy(), between.cpu().numpy()
    picks: list[int] = []
    at_pick: list[float] = []
    while len(picks) < k:
        place = int(current.argmax())
        value = float(current[place])
        if value <= 0 or (value < outside and picks):
            break
        picks.append(place)
        at_pick.append(value)
        np.fmin(current, to_pick[place], out=current)
        current[place] = 0.0
    return rows[torch.tensor(picks, dtype=torch.int64, device=rows.device)], bound.new_tensor(at_pick)
