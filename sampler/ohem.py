"""Online hard example mining (Shrivastava et al., 2016): the candidates with the largest loss."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from sampler.base import Candidates, Selection, required
from sampler.d2.distance import squared_norms
from sampler.fallbacks import make_selection, top_rows, usable_rows


@dataclass(kw_only=True)
class Ohem:
    """The k rows of the largest cross-entropy against their own pseudo-label, largest first."""

    def select(
        self, candidates: Candidates, k: int, *, generator: torch.Generator, dictionary: Candidates | None = None
    ) -> Selection:
        usable, invalid = usable_rows(candidates, squared_norms(candidates))
        return make_selection(top_rows(required(candidates.loss, "loss"), usable, k), None, k, invalid=invalid)
