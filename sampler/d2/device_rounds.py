"""Exact D² sampling in blocks for a GPU: fixed shapes, no synchronisation with the host within a run of rounds.

The algorithm is that of sampler/d2/blocked.py. Here a run of rounds is a sequence of kernels that depends on no value
read by the host, so that a CUDA graph can capture it: every block has the same size, rejected proposals take part in
the product with an infinite norm, and rounds after the last pick change nothing. The host reads results only between
runs.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sampler.base import Candidates, Selection
from sampler.d2.dense_bounds import DenseBounds
from sampler.d2.distance import squared_distances, squared_norms
from sampler.d2.distribution import FirstPick, dictionary_rows, draw_rows, first_weight, starting_distances
from sampler.d2.proposals import propose
from sampler.fallbacks import fill_uniformly, make_selection, usable_rows

_SMALLEST_BLOCK, _LARGEST_BLOCK = 32, 512
_PASSES = 16
"""Number of passes in which the conflicts of a block are settled. A longer chain of conflicts is detected, and the
selection is repeated with enough passes for any chain."""


@dataclass(kw_only=True)
class Rounds:
    """The state of a selection of K picks; every tensor is changed in place."""

    bounds: DenseBounds
    d2: Tensor
    """[N] float32 D² of every row to the picks so far."""
    indices: Tensor
    """[K + 1] int64 picks; rejected proposals are written to the last place."""
    distances: Tensor
    """[K + 1] float32 D² of each pick when it was picked; as in `indices`, the last place is for rejected proposals."""
    count: Tensor
    """[1] int64, the number of picks so far."""
    unsettled: Tensor
    """[1] bool, whether some block had a longer chain of conflicts than there were passes."""

    def run(self, uniforms: Tensor, passes: int) -> None:
        """Runs R rounds of B proposals without synchronisation; uniforms [R, 2, B] float64 on the device."""
        for proposing, deciding in uniforms.unbind(0):
            self._round(proposing, deciding, passes)

    def _round(self, proposing: Tensor, deciding: Tensor, passes: int) -> None:
        rows, norms, limit = self.bounds.rows, self.bounds.norms, len(self.indices) - 1
        drawn = propose(self.d2, proposing, rows, norms)
        threshold = deciding * drawn.bound
        between = squared_distances(drawn.rows, drawn.norms, drawn.rows, drawn.norms)
        same_row = drawn.index[:, None] == drawn.index
        blocked_by = ((between <= threshold[:, None]) | same_row).tril(-1)
        eligible = drawn.bound > threshold
        accepted = before = eligible
        for _ in range(passes):
            before, accepted = accepted, eligible & ~(blocked_by & accepted).any(1)
        self.unsettled |= (before != accepted).any()
        place = self.count + accepted.cumsum(0) - 1
        accepted = accepted & (place < limit)
        slot = torch.where(accepted, place, limit)
        earlier = (blocked_by.new_ones(blocked_by.shape).tril(-1)) & accepted
        at_pick = torch.minimum(drawn.bound, between.masked_fill(~earlier, torch.inf).amin(1))
        self.indices.scatter_(0, slot, drawn.index)
        self.distances.scatter_(0, slot, at_pick)
        self.count += accepted.sum()
        self.bounds.lower(self.d2, drawn.rows, torch.where(accepted, drawn.norms, torch.inf))
        chosen = torch.where(accepted, 0.0, torch.inf).to(self.d2)
        self.d2.scatter_reduce_(0, drawn.index, chosen, "amin")


def select_on_device(
    candidates: Candidates,
    k: int,
    *,
    bf16: bool,
    first_pick: FirstPick,
    generator: torch.Generator,
    dictionary: Candidates | None,
) -> Selection:
    """Makes a complete selection; arguments as in `select_blocked`.

    With bf16 it samples from the distribution of the bf16-rounded factors (products and norms are in float32).
    """
    if bf16:
        candidates, dictionary = _rounded(candidates), None if dictionary is None else _rounded(dictionary)
    norms = squared_norms(candidates)
    usable, invalid = usable_rows(candidates, norms)
    k_possible = min(k, int(usable.sum()))
    bounds = DenseBounds(candidates, norms)
    start, start_pick = starting_distances(norms, usable), None
    held = dictionary_rows(dictionary)
    if held is not None:
        _lower_in_blocks(bounds, start, held)
    elif k_possible:
        uniform = torch.rand(1, dtype=torch.float64, generator=generator).to(norms.device, non_blocking=True)
        start_pick = draw_rows(first_weight(first_pick, norms, usable), uniform)
        bounds.lower(start, candidates.rows(start_pick), norms[start_pick])
        start[start_pick] = 0.0
    block = min(max(k_possible // 2, _SMALLEST_BLOCK), _LARGEST_BLOCK)
    drawn: list[Tensor] = []
    for passes in (_PASSES, block):
        rounds = _start(bounds, start, start_pick, k_possible)
        runs = _run_until_done(rounds, drawn, k_possible, block, passes, generator)
        if not bool(rounds.unsettled):
            break
    found = int(rounds.count)
    picks = rounds.indices[:found]
    rest = fill_uniformly(usable, picks, k_possible - found, generator)
    distances = torch.cat([rounds.distances[:found], torch.zeros(len(rest), device=norms.device)])
    proposed = sum(uniforms.shape[0] for uniforms in drawn[:runs]) * block
    return make_selection(
        torch.cat([picks, rest]),
        distances,
        k,
        invalid=invalid,
        uniform_fill=len(rest),
        rounds=proposed // block,
        proposals=proposed,
        accepted_share=found / max(proposed, 1),
        pairs=proposed * len(norms),
    )


def _lower_in_blocks(bounds: DenseBounds, d2: Tensor, centres: Candidates) -> None:
    norms = squared_norms(centres)
    for start in range(0, len(centres), _LARGEST_BLOCK):
        rows = slice(start, start + _LARGEST_BLOCK)
        bounds.lower(d2, centres.rows(rows), norms[rows])


def _run_until_done(
    rounds: Rounds, drawn: list[Tensor], k: int, block: int, passes: int, generator: torch.Generator
) -> int:
    """Runs rounds until k rows are picked or a run picks nothing; returns the number of runs.

    `drawn` collects the random numbers of each run, so that a repeated selection uses the same ones.
    """
    done, runs = int(rounds.count), 0
    while done < k:
        if runs == len(drawn):
            length = 2 + (k - done) * 5 // (4 * block)
            uniforms = torch.rand(length, 2, block, dtype=torch.float64, generator=generator)
            drawn.append(uniforms.to(rounds.d2.device, non_blocking=True))
        rounds.run(drawn[runs], passes)
        runs += 1
        before, done = done, int(rounds.count)
        if done == before:
            break
    return runs


def _start(bounds: DenseBounds, d2: Tensor, pick: Tensor | None, k: int) -> Rounds:
    rounds = Rounds(
        bounds=bounds,
        d2=d2.clone(),
        indices=torch.zeros(k + 1, dtype=torch.int64, device=d2.device),
        distances=torch.full((k + 1,), torch.inf, device=d2.device),
        count=torch.zeros(1, dtype=torch.int64, device=d2.device),
        unsettled=torch.zeros(1, dtype=torch.bool, device=d2.device),
    )
    if pick is not None:
        rounds.indices[:1] = pick
        rounds.count += 1
    return rounds


def _rounded(table: Candidates) -> Candidates:
    return replace(table, a=table.a.bfloat16(), b=None if table.b is None else table.b.bfloat16())
