"""Uniform draws from the pool: the baseline that every selection rule has to beat."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from sampler.base import Candidates, Selection
from sampler.d2.distance import squared_norms
from sampler.fallbacks import fill_uniformly, make_selection, usable_rows


@dataclass(kw_only=True)
class Uniform:
    """Picks k different rows, each equally likely."""

    def select(
        self, candidates: Candidates, k: int, *, generator: torch.Generator, dictionary: Candidates | None = None
    ) -> Selection:
        usable, invalid = usable_rows(candidates, squared_norms(candidates))
        nothing = torch.empty(0, dtype=torch.int64, device=usable.device)
        return make_selection(fill_uniformly(usable, nothing, k, generator), None, k, invalid=invalid)
