"""The candidates most similar to the batch's queries, as in ANCE (Xiong et al., 2021)."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from sampler.base import Candidates, Selection, required
from sampler.d2.distance import squared_norms
from sampler.fallbacks import make_selection, top_rows, usable_rows


@dataclass(kw_only=True)
class Hard:
    """The k rows of the largest smooth maximum of the similarity to the queries, largest first."""

    def select(
        self, candidates: Candidates, k: int, *, generator: torch.Generator, dictionary: Candidates | None = None
    ) -> Selection:
        usable, invalid = usable_rows(candidates, squared_norms(candidates))
        similarity = required(candidates.similarity, "similarity")
        return make_selection(top_rows(similarity, usable, k), None, k, invalid=invalid)
