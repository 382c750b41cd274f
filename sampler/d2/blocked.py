"""Exact D² sampling in blocks: propose from a stale law, reject, and only then touch the pool again.

One round draws a block of proposals from upper bounds U >= D², decides on them among themselves (sampler/d2/accept.py),
and lowers U once by all accepted centres. What keeps U, and how close it stays to D², is a matter of speed only: where
U is not D² itself, the true D² of each proposal is computed before the decision.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

import torch
from torch import Tensor

from sampler.base import Candidates, Selection
from sampler.d2.accept import accepted_proposals
from sampler.d2.centres import Centres
from sampler.d2.distance import squared_norms
from sampler.d2.distribution import First, first_weight, starting_distances
from sampler.d2.proposals import Shard
from sampler.fallbacks import fill_uniformly, make_selection, usable_rows

SMALLEST_BLOCK, LARGEST_BLOCK, GROWTH = 32, 1024, 8
"""Proposals of a round: GROWTH times what is chosen, within these limits. Large blocks waste proposals, which is cheap;
small ones pass over the pool more often."""


class Bounds(Protocol):
    """Upper bounds on D² of this process's rows."""

    exact: bool
    """Whether the bounds are D² itself, so that proposals need no verification."""

    def lower(self, u: Tensor, centres: Candidates, centre_norms: Tensor) -> int:
        """Lowers u [n_local] in place, staying >= D², after new centres; returns the pairs evaluated."""
        ...


def select_blocked(
    candidates: Candidates,
    k: int,
    *,
    make_bounds: Callable[[Candidates, Tensor, Tensor], Bounds],
    first: First,
    generator: torch.Generator,
    dictionary: Candidates | None,
    sharded: bool = False,
) -> Selection:
    """A whole selection by blocks.

    Args:
        make_bounds: called with this process's rows, their |g|² [n_local] and which of them are usable [n_local].
        sharded: under torch.distributed, each rank works on its share of the rows; all get the same picks.
    """
    shard = Shard(len(candidates), sharded=sharded)
    rows = candidates.rows(shard.rows) if shard.sharded else candidates
    norms = squared_norms(rows)
    all_norms = shard.gather_rows(norms)
    usable, invalid = usable_rows(candidates, all_norms)
    sampling = BlockedSampling(
        rows=rows,
        norms=norms,
        usable=usable,
        bounds=make_bounds(rows, norms, usable[shard.rows]),
        shard=shard,
        generator=generator,
    )
    k_possible = min(k, int(usable.sum()))
    picks, distances = sampling.run(k_possible, first=first, all_norms=all_norms, dictionary=dictionary)
    rest = fill_uniformly(usable, picks, k_possible - len(picks), generator)
    return make_selection(
        torch.cat([picks, rest]),
        torch.cat([distances, distances.new_zeros(len(rest))]),
        k,
        invalid=invalid,
        uniform_fill=len(rest),
        rounds=sampling.rounds,
        proposals=sampling.proposed,
        accepted_share=len(picks) / max(sampling.proposed, 1),
        pairs=sampling.pairs,
    )


class BlockedSampling:
    """One selection under way."""

    def __init__(
        self,
        *,
        rows: Candidates,
        norms: Tensor,
        usable: Tensor,
        bounds: Bounds,
        shard: Shard,
        generator: torch.Generator,
    ) -> None:
        """
        Args:
            rows: this process's rows, n_local.
            norms: [n_local] their |g|².
            usable: [N] bool, rows of the whole pool that may be picked.
            generator: equal on all ranks.
        """
        self.rows, self.norms, self.usable = rows, norms, usable
        self.bounds, self.shard, self.generator = bounds, shard, generator
        self.u = starting_distances(norms, usable[shard.rows])
        self.rounds = self.proposed = self.pairs = 0

    def run(self, k: int, *, first: First, all_norms: Tensor, dictionary: Candidates | None) -> tuple[Tensor, Tensor]:
        """Picks up to k rows; returns their indices [n] int64 and D² [n]. Fewer only when no mass is left.

        Args:
            all_norms: [N] |g|² of the whole pool.
        """
        held = dictionary_rows(dictionary)
        start = 0 if held is None else len(held)
        self.centres = Centres(self.rows, start + k)
        self.distances = torch.zeros(start + k, device=self.u.device)
        if held is not None:
            self._chosen(held.ids, held, squared_norms(held), lower=k > 0)
        elif k > 0:
            self._first_pick(first_weight(first, all_norms, self.usable), lower=k > 1)
        while self.centres.count < start + k and self._round(start + k):
            pass
        picks = slice(start, self.centres.count)
        return self.centres.index[picks], self.distances[picks]

    def _uniforms(self, *shape: int) -> Tensor:
        return torch.rand(*shape, dtype=torch.float64, generator=self.generator).to(self.u.device)

    def _first_pick(self, weight: Tensor, *, lower: bool) -> None:
        pick = self.shard.draw(weight[self.shard.rows], self._uniforms(1), self.rows, self.norms)
        self.distances[0] = torch.inf
        self._chosen(pick.index, pick.rows, pick.norms, lower=lower)

    def _round(self, target: int) -> bool:
        """Proposes and decides on one block; False when no mass is left."""
        centres = self.centres
        left = target - centres.count
        block = min(max(GROWTH * centres.count, SMALLEST_BLOCK), LARGEST_BLOCK, left + left // 4 + SMALLEST_BLOCK)
        proposals = self.shard.draw(self.u, self._uniforms(block), self.rows, self.norms)
        if not (proposals.bound > 0).any():
            return False
        d2 = proposals.bound
        if not self.bounds.exact:
            d2 = centres.nearest(proposals)
            self.pairs += block * centres.count
            self._set_bound(proposals.index, d2)
        accepted, at_pick = (part[:left] for part in accepted_proposals(proposals, d2, self._uniforms(block)))
        self.rounds += 1
        self.proposed += block
        self.distances[centres.count : centres.count + len(accepted)] = at_pick
        rows, norms = proposals.rows.rows(accepted), proposals.norms[accepted]
        self._chosen(proposals.index[accepted], rows, norms, lower=centres.count + len(accepted) < target)
        return True

    def _chosen(self, index: Tensor, rows: Candidates, norms: Tensor, *, lower: bool) -> None:
        before = self.centres.count
        self.centres.append(index, rows, norms)
        if lower:
            for start in range(before, self.centres.count, LARGEST_BLOCK):
                new = slice(start, min(start + LARGEST_BLOCK, self.centres.count))
                self.pairs += self.bounds.lower(self.u, self.centres.factors(new), self.centres.norms[new])
        self._set_bound(index, torch.zeros_like(norms))

    def _set_bound(self, index: Tensor, bound: Tensor) -> None:
        mine, local = self.shard.local(index)
        self.u[local] = bound[mine]


def dictionary_rows(dictionary: Candidates | None) -> Candidates | None:
    """The dictionary's usable rows with ids that name no row of the pool; None if there are none."""
    if dictionary is None:
        return None
    held = (dictionary.valid & torch.isfinite(squared_norms(dictionary))).nonzero().squeeze(1)
    return replace(dictionary.rows(held), ids=torch.full_like(held, -1)) if len(held) else None
