"""The candidates with the largest gradients."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from sampler.base import Candidates, Selection
from sampler.d2.distance import squared_norms
from sampler.fallbacks import make_selection, top_rows, usable_rows


@dataclass(kw_only=True)
class GradNorm:
    """The k rows of the largest |g|, largest first."""

    def select(
        self, candidates: Candidates, k: int, *, generator: torch.Generator, dictionary: Candidates | None = None
    ) -> Selection:
        norms = squared_norms(candidates)
        usable, invalid = usable_rows(candidates, norms)
        return make_selection(top_rows(norms, usable, k), None, k, invalid=invalid)
