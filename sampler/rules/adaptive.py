"""Hard negatives, or a covering of the pool where the hardest candidates look like false negatives."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from sampler.base import Candidates, Selection, required
from sampler.rules.kcenter import KCenter
from sampler.rules.top_score import Hard
from settings.errors import ConfigError


@dataclass(kw_only=True)
class Adaptive:
    """Selects by `hard` or by `kcenter`, decided at each selection from the batch and the pool, without labels.

    A false negative outranks the positive of its query (is more similar to the query) about half of the time; the more
    the encoders have learnt, the more rarely any other candidate does. So false negatives differ from hard negatives
    not in how similar they are but in how often they outrank. Where a few classes make up most of the data, the hardest
    rows belong to them and outrank far more positives than the rows of the pool do on average. The comparison is with
    this average because early in training every row outranks many positives.
    """

    threshold: float = 0.06
    """The largest allowed excess of the hardest rows' mean outrank fraction over the pool's mean, in [0, 1]. Beyond it
    the picks are spread by farthest-first traversal."""

    def __post_init__(self) -> None:
        if not 0 <= self.threshold <= 1:
            raise ConfigError(f"sampler.options.threshold must be in [0, 1], not {self.threshold}")

    def select(
        self, candidates: Candidates, k: int, *, generator: torch.Generator, dictionary: Candidates | None = None
    ) -> Selection:
        """Selects by `hard`, and by `kcenter` instead if the picks outrank too many positives.

        Rows whose outrank fraction is not finite count in neither mean.
        """
        outrank_fraction = required(candidates.outrank_fraction, "outrank_fraction")
        selection = Hard().select(candidates, k, generator=generator)
        known = candidates.valid & torch.isfinite(outrank_fraction)
        average = outrank_fraction.masked_fill(~known, 0.0).sum() / known.sum().clamp(min=1)
        hardest = selection.indices[known[selection.indices]]
        excess = float(outrank_fraction[hardest].mean() - average) if len(hardest) else 0.0
        if excess > self.threshold:
            selection = KCenter().select(candidates, k, generator=generator, dictionary=dictionary)
        return replace(selection, stats={**selection.stats, "excess": excess, "hard": float(excess <= self.threshold)})
