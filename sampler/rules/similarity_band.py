"""Uniform draws from a band of similarities: candidates that are neither too easy nor too hard."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from sampler.base import Candidates, Selection, required
from sampler.d2.distance import squared_norms
from sampler.fallbacks import fill_uniformly, make_selection, top_rows, usable_rows
from settings.errors import ConfigError


@dataclass(kw_only=True)
class SimilarityBand:
    """Picks rows uniformly from those between two percentiles of the similarity to the batch's queries.

    A band that holds fewer than k rows is widened, first towards easier rows. The rule is the ring of Wu et al.,
    "Conditional negative sampling for contrastive learning of visual representations" (2021).
    """

    low: float = 50.0
    """Percentile of the similarity below which a row is too easy."""
    high: float = 95.0
    """Percentile of the similarity above which a row is too hard (often a false negative)."""

    def __post_init__(self) -> None:
        if not 0 <= self.low < self.high <= 100:
            raise ConfigError(
                f"sampler.options must satisfy 0 <= low < high <= 100, not low={self.low} and high={self.high}"
            )

    def select(
        self, candidates: Candidates, k: int, *, generator: torch.Generator, dictionary: Candidates | None = None
    ) -> Selection:
        """Ranks by similarity and draws from the ranks inside the band.

        Rows whose similarity is not finite have no rank: they are drawn only if there are too few others.
        """
        usable, invalid = usable_rows(candidates, squared_norms(candidates))
        similarity = required(candidates.similarity, "similarity")
        hardest_first = top_rows(similarity, usable & torch.isfinite(similarity), len(candidates))
        start = round(len(hardest_first) * (100 - self.high) / 100)
        stop = max(round(len(hardest_first) * (100 - self.low) / 100), start + k)
        # If the band already reaches the easiest row and still holds fewer than k, it is widened towards harder rows.
        start = max(min(start, len(hardest_first) - k), 0)
        in_band = torch.zeros_like(usable)
        in_band[hardest_first[start:stop]] = True
        nothing = torch.empty(0, dtype=torch.int64, device=usable.device)
        picks = fill_uniformly(in_band, nothing, k, generator)
        rest = fill_uniformly(usable, picks, k - len(picks), generator)
        return make_selection(torch.cat([picks, rest]), None, k, invalid=invalid)
