"""The newest keys of the pool, as MoCo's queue takes them."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from sampler.base import Candidates, Selection
from sampler.d2.distance import squared_norms
from sampler.fallbacks import make_selection, top_rows, usable_rows


@dataclass(kw_only=True)
class Fifo:
    """The k rows of the largest write_index, newest first."""

    def select(
        self, candidates: Candidates, k: int, *, generator: torch.Generator, dictionary: Candidates | None = None
    ) -> Selection:
        usable, invalid = usable_rows(candidates, squared_norms(candidates))
        return make_selection(top_rows(candidates.write_index.double(), usable, k), None, k, invalid=invalid)
