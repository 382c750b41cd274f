"""D² sampling one pick at a time: the definition, and the oracle that the fast backends are tested against.

This is the seeding of Arthur and Vassilvitskii, "k-means++: the advantages of careful seeding" (2007), on factored
embeddings.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from sampler.base import Candidates, Selection
from sampler.d2.distance import floor_to_zero, squared_distances, squared_norms
from sampler.d2.distribution import FirstPick, condition, draw_rows, first_weight, starting_distances
from sampler.fallbacks import fill_uniformly, make_selection, usable_rows


@dataclass(kw_only=True)
class KMeansPPSequential:
    """Each pick has probability proportional to its squared distance to the picks so far; one pass per pick."""

    first_pick: FirstPick = "uniform"
    """The distribution of the first pick."""

    def select(
        self, candidates: Candidates, k: int, *, generator: torch.Generator, dictionary: Candidates | None = None
    ) -> Selection:
        """Draws k rows one after the other; starts from the dictionary if there is one."""
        norms = squared_norms(candidates)
        usable, invalid = usable_rows(candidates, norms)
        d2 = condition(starting_distances(norms, usable), candidates, norms, dictionary)
        weight = first_weight(self.first_pick, norms, usable) if torch.isinf(d2).any() else d2
        indices = torch.empty(min(k, int(usable.sum())), dtype=torch.int64, device=norms.device)
        distances = torch.zeros(len(indices), device=norms.device)
        picked = 0
        while picked < len(indices) and weight.sum() > 0:
            uniform = torch.rand(1, dtype=torch.float64, generator=generator).to(norms.device)
            pick = draw_rows(weight, uniform)
            indices[picked], distances[picked] = pick, d2[pick]
            to_pick = squared_distances(candidates, norms, candidates.rows(pick), norms[pick]).squeeze(1)
            # fmin, because rows that are not finite start at 0 and must stay there.
            weight = d2 = floor_to_zero(torch.fmin(d2, to_pick), norms)
            d2[pick] = 0.0
            picked += 1
        indices[picked:] = fill_uniformly(usable, indices[:picked], len(indices) - picked, generator)
        return make_selection(
            indices, distances, k, invalid=invalid, uniform_fill=len(indices) - picked, pairs=picked * len(norms)
        )
