"""The fastest of the exact D² samplers for the size at hand."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from sampler.base import Candidates, Selection
from sampler.d2.distribution import First
from sampler.rules.kmeanspp import KMeansPP
from sampler.rules.kmeanspp_faiss import KMeansPPFaiss

INDEX_FROM = (512, 16_384)
"""(picks, candidates) from which the index wins on a CPU: from benchmarks/results/sampling_crossover.json. A GPU never
takes it: the index visits its cells one by one and waits in each, which for 1,024 of 32,768 makes 5,335 calls into
torch and 479 waits, where the dense rounds (sampler/d2/device_rounds.py) make 692 and 6."""
CANDIDATES_A_PICK = 128
"""Building an index costs by the candidate, what it saves comes by the pick: with more candidates a pick than this it
does not pay (1,024 of 200,000 in benchmarks/results/sampling_grid.json; 8,192 of 1,000,000 does)."""


@dataclass(kw_only=True)
class Auto:
    """`kmeanspp` or `kmeanspp_faiss`: the same law either way, so only the time changes."""

    first: First = "uniform"
    """Law of the first pick."""

    def __post_init__(self) -> None:
        self._dense = KMeansPP(first=self.first)
        self._indexed = KMeansPPFaiss(first=self.first, index_on="sketch")

    def select(
        self, candidates: Candidates, k: int, *, generator: torch.Generator, dictionary: Candidates | None = None
    ) -> Selection:
        picks, rows = INDEX_FROM
        pays = not candidates.a.is_cuda and k >= picks and rows <= len(candidates) <= k * CANDIDATES_A_PICK
        sampler = self._indexed if pays else self._dense
        return sampler.select(candidates, k, generator=generator, dictionary=dictionary)
