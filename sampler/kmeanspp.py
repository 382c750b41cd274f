"""Exact D² sampling in blocks with rejection, all distances dense: the default."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from sampler.base import Candidates, Selection
from sampler.blocked import BlockedSampling
from sampler.d2_law import First
from sampler.degenerate import make_selection, uniform_rest, usable_rows
from sampler.dense_bounds import DenseBounds, Precision, RoughBounds
from sampler.distance import squared_norms
from sampler.proposals import Shard


@dataclass(kw_only=True)
class KMeansPP:
    """The law of `kmeanspp_sequential` at a small part of its cost."""

    first: First = "uniform"
    """Law of the first pick."""
    precision: Precision = "auto"
    """Of the dense products. bf16 never changes the law on a CPU; auto takes it where the processor has it."""
    sharded: bool = False
    """Under torch.distributed, each rank works on its share of the rows; all ranks get the same picks."""

    def select(
        self, candidates: Candidates, k: int, *, generator: torch.Generator, dictionary: Candidates | None = None
    ) -> Selection:
        shard = Shard(len(candidates), sharded=self.sharded)
        rows = candidates.rows(shard.rows) if shard.sharded else candidates
        norms = squared_norms(rows)
        all_norms = shard.gather_rows(norms)
        usable, invalid = usable_rows(candidates, all_norms)
        bf16 = self.precision == "bf16" or (self.precision == "auto" and torch.cpu._is_avx512_bf16_supported())
        bounds = (RoughBounds if bf16 else DenseBounds)(rows, norms)
        sampling = BlockedSampling(
            rows=rows, norms=norms, usable=usable, bounds=bounds, shard=shard, generator=generator
        )
        k_possible = min(k, int(usable.sum()))
        picks, distances = sampling.run(k_possible, first=self.first, all_norms=all_norms, dictionary=dictionary)
        rest = uniform_rest(usable, picks, k_possible - len(picks), generator)
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
