"""Greedy k-center: each pick is the row farthest from the picks so far."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sampler.base import Candidates, Selection
from sampler.d2.dense_bounds import DenseBounds
from sampler.d2.distance import floor_to_zero, squared_distances, squared_norms
from sampler.d2.distribution import FirstPick, condition, draw_rows, first_weight, starting_distances
from sampler.fallbacks import fill_uniformly, make_selection, usable_rows

_BLOCK = 256
"""Number of rows that are compared with each other per pass over the pool."""


@dataclass(kw_only=True)
class KCenter:
    """Exact farthest-first traversal: covers the pool, outliers first.

    Stale distances are upper bounds. Take the block of rows that are farthest by stale distances: its farthest row is
    the farthest of all as long as it is farther than the best row outside the block, so that many picks share one pass
    over the pool.
    """

    first_pick: FirstPick = "uniform"
    """The distribution of the first pick, the only random one."""

    def select(
        self, candidates: Candidates, k: int, *, generator: torch.Generator, dictionary: Candidates | None = None
    ) -> Selection:
        """Traverses farthest-first (Gonzalez, 1985); starts from the dictionary if there is one."""
        norms = squared_norms(candidates)
        usable, invalid = usable_rows(candidates, norms)
        k_possible = min(k, int(usable.sum()))
        bounds, pairs = DenseBounds(candidates, norms), 0
        d2 = condition(starting_distances(norms, usable), candidates, norms, dictionary)
        indices = torch.empty(0, dtype=torch.int64, device=norms.device)
        distances = torch.empty(0, device=norms.device)
        if k_possible and torch.isinf(d2).any():
            uniform = torch.rand(1, dtype=torch.float64, generator=generator).to(norms.device)
            picks = draw_rows(first_weight(self.first_pick, norms, usable), uniform)
            at_pick = d2.new_full((1,), torch.inf)
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
    """Returns up to k rows, farthest first, and their D²: as many as one block decides, none if all D² are 0."""
    bound, rows = d2.topk(min(_BLOCK + 1, len(d2)))
    outside = float(bound[-1]) if len(rows) < len(d2) else 0.0
    block, block_norms = candidates.rows(rows), norms[rows]
    between = floor_to_zero(squared_distances(block, block_norms, block, block_norms), block_norms)
    # Each pick depends on the one before: a step takes microseconds in NumPy on the host, but a round trip on a GPU.
    current, to_pick = bound.cpu().numpy().copy(), between.cpu().numpy()
    picks: list[int] = []
    at_pick: list[float] = []
    while len(picks) < k:
        row = int(current.argmax())
        value = float(current[row])
        if value <= 0 or (value < outside and picks):
            break
        picks.append(row)
        at_pick.append(value)
        np.fmin(current, to_pick[row], out=current)
        current[row] = 0.0
    return rows[torch.tensor(picks, dtype=torch.int64, device=rows.device)], bound.new_tensor(at_pick)
