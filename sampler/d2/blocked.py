"""Exact D² sampling in blocks: propose from a stale distribution, reject, and only then update the pool's distances.

One round draws a block of proposals from upper bounds U >= D², accepts or rejects them (sampler/d2/accept.py), and
lowers U once for all accepted rows, which become centres. How U is kept, and how close it stays to D², affects only the
speed: where U is not D² itself, the true D² of each proposal is computed before the decision.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from sampler.base import Candidates, Selection
from sampler.d2.accept import accepted_proposals
from sampler.d2.centres import Centres
from sampler.d2.distance import squared_norms
from sampler.d2.distribution import FirstPick, dictionary_rows, draw_rows, first_weight, starting_distances
from sampler.d2.proposals import propose
from sampler.fallbacks import fill_uniformly, make_selection, usable_rows

SMALLEST_BLOCK, LARGEST_BLOCK, GROWTH = 32, 1024, 8
"""A round makes GROWTH times as many proposals as there are centres, within these limits. Large blocks waste proposals,
which is cheap; small blocks pass over the pool more often."""


class Bounds(Protocol):
    """Upper bounds on D² of the pool's rows."""

    exact: bool
    """Whether the bounds are D² itself, so that proposals need no verification."""

    def lower(self, u: Tensor, centres: Candidates, centre_norms: Tensor) -> int:
        """Lowers u [N] in place after new centres, keeping u >= D²; returns the number of pairs evaluated."""
        ...


def select_blocked(
    candidates: Candidates,
    k: int,
    *,
    make_bounds: Callable[[Candidates, Tensor, Tensor], Bounds],
    first_pick: FirstPick,
    generator: torch.Generator,
    dictionary: Candidates | None,
) -> Selection:
    """Makes a complete selection in blocks.

    Args:
        candidates: N rows.
        k: number of rows to pick.
        make_bounds: called with the candidates, their |g|² [N] and which of them are usable [N].
        first_pick: the distribution of the first pick.
        generator: source of every random number.
        dictionary: rows that count as already chosen.
    """
    norms = squared_norms(candidates)
    usable, invalid = usable_rows(candidates, norms)
    sampling = BlockedSampling(
        candidates=candidates,
        norms=norms,
        usable=usable,
        bounds=make_bounds(candidates, norms, usable),
        generator=generator,
    )
    k_possible = min(k, int(usable.sum()))
    picks, distances = sampling.run(k_possible, first_pick=first_pick, dictionary=dictionary)
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
    """The state of one selection: the bounds on D², the centres chosen so far and counters for the statistics."""

    def __init__(
        self, *, candidates: Candidates, norms: Tensor, usable: Tensor, bounds: Bounds, generator: torch.Generator
    ) -> None:
        """
        Args:
            candidates: N rows.
            norms: [N] their |g|².
            usable: [N] bool, rows that may be picked.
            bounds: lowers the bounds on D² after each block.
            generator: source of every random number.
        """
        self.candidates, self.norms, self.usable = candidates, norms, usable
        self.bounds, self.generator = bounds, generator
        self.u = starting_distances(norms, usable)
        self.rounds = self.proposed = self.pairs = 0

    def run(self, k: int, *, first_pick: FirstPick, dictionary: Candidates | None) -> tuple[Tensor, Tensor]:
        """Picks up to k rows; returns their indices [n] int64 and D² [n]. n < k only when every D² left is 0."""
        held = dictionary_rows(dictionary)
        start = 0 if held is None else len(held)
        self.centres = Centres(self.candidates, start + k)
        self.distances = torch.zeros(start + k, device=self.u.device)
        if held is not None:
            self._add_centres(torch.full_like(held.ids, -1), held, squared_norms(held), lower=k > 0)
        elif k > 0:
            self._pick_first(first_pick, lower=k > 1)
        while self.centres.count < start + k and self._round(start + k):
            pass
        picks = slice(start, self.centres.count)
        return self.centres.index[picks], self.distances[picks]

    def _uniforms(self, *shape: int) -> Tensor:
        return torch.rand(*shape, dtype=torch.float64, generator=self.generator).to(self.u.device)

    def _pick_first(self, first_pick: FirstPick, *, lower: bool) -> None:
        pick = draw_rows(first_weight(first_pick, self.norms, self.usable), self._uniforms(1))
        self.distances[0] = torch.inf
        self._add_centres(pick, self.candidates.rows(pick), self.norms[pick], lower=lower)
        self.u[pick] = 0.0

    def _round(self, target: int) -> bool:
        """Proposes and decides on one block; returns False when every D² left is 0."""
        centres = self.centres
        left = target - centres.count
        block = min(max(GROWTH * centres.count, SMALLEST_BLOCK), LARGEST_BLOCK, left + left // 4 + SMALLEST_BLOCK)
        proposals = propose(self.u, self._uniforms(block), self.candidates, self.norms)
        if not (proposals.bound > 0).any():
            return False
        d2, threshold = proposals.bound, self._uniforms(block) * proposals.bound
        if not self.bounds.exact:
            d2, pairs = centres.nearest(proposals, threshold)
            self.pairs += pairs
            # A row may be proposed twice, with other thresholds.
            self.u.scatter_reduce_(0, proposals.index, d2, "amin")
        accepted, at_pick = (part[:left] for part in accepted_proposals(proposals, d2, threshold))
        self.rounds += 1
        self.proposed += block
        self.distances[centres.count : centres.count + len(accepted)] = at_pick
        index, rows, norms = proposals.index[accepted], proposals.rows.rows(accepted), proposals.norms[accepted]
        self._add_centres(index, rows, norms, lower=centres.count + len(accepted) < target)
        self.u[index] = 0.0
        return True

    def _add_centres(self, index: Tensor, rows: Candidates, norms: Tensor, *, lower: bool) -> None:
        before = self.centres.count
        self.centres.append(index, rows, norms)
        if lower:
            for start in range(before, self.centres.count, LARGEST_BLOCK):
                new = slice(start, min(start + LARGEST_BLOCK, self.centres.count))
                self.pairs += self.bounds.lower(self.u, self.centres.factors(new), self.centres.norms[new])
