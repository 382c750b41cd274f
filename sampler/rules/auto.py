"""The faster of the exact D² samplers for the number of picks and candidates."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from sampler.base import Candidates, Selection
from sampler.d2.distribution import FirstPick
from sampler.rules.kmeanspp import KMeansPP
from sampler.rules.kmeanspp_faiss import KMeansPPFaiss

INDEX_FROM = (512, 16_384)
"""(picks, candidates) from which the index is faster on a CPU, measured in benchmarks/results/sampling_crossover.json.
It is never used on a GPU, because it visits its cells one by one and waits for the GPU in each: 1,024 picks of 32,768
rows take 5,335 calls into torch and 479 waits, against 692 and 6 with dense rounds (sampler/d2/device_rounds.py)."""
CANDIDATES_PER_PICK = 128
"""The largest number of candidates per pick for which the index is used. Its build time grows with the candidates, its
gain with the picks: it is slower for 1,024 picks of 200,000 candidates (benchmarks/results/sampling_grid.json) and
faster for 8,192 of 1,000,000."""


@dataclass(kw_only=True)
class Auto:
    """Selects by `kmeanspp` or `kmeanspp_faiss`: both sample from the same distribution, only the time differs."""

    first_pick: FirstPick = "uniform"
    """The distribution of the first pick."""

    def __post_init__(self) -> None:
        self._dense = KMeansPP(first_pick=self.first_pick)
        self._indexed = KMeansPPFaiss(first_pick=self.first_pick, index_on="sketch")

    def select(
        self, candidates: Candidates, k: int, *, generator: torch.Generator, dictionary: Candidates | None = None
    ) -> Selection:
        """Uses the index only on a CPU, from `INDEX_FROM` up to `CANDIDATES_PER_PICK`."""
        picks, rows = INDEX_FROM
        use_index = not candidates.a.is_cuda and k >= picks and rows <= len(candidates) <= k * CANDIDATES_PER_PICK
        sampler = self._indexed if use_index else self._dense
        return sampler.select(candidates, k, generator=generator, dictionary=dictionary)
