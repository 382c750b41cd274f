"""The hardest candidates, unless they look like false negatives; then coverage."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from sampler.base import Candidates, Selection, required
from sampler.rules.kcenter import KCenter
from sampler.rules.top_score import Hard
from settings.load import ConfigError


@dataclass(kw_only=True)
class Adaptive:
    """`hard` or `kcenter`, whichever fits the batch and the pool: decided anew at each selection, without labels.

    A false negative outranks the positive of its query (is more similar to the query) about every second time, any
    other candidate the more rarely the more the encoders have learnt. So what tells false negatives from hard ones is
    not how similar they are but how often they outrank: where a few classes make most of the data, the hardest rows are
    of these and outrank far more positives than the pool's rows do on average. The average is what the comparison is
    with because early in training everything outranks everything.
    """

    threshold: float = 0.06
    """Share of the queries by which the hardest rows may outrank more positives than the pool's rows do on average;
    beyond it the picks are spread by farthest-first traversal."""

    def __post_init__(self) -> None:
        if not 0 <= self.threshold <= 1:
            raise ConfigError(f"sampler.options.threshold must be in [0, 1], not {self.threshold}")

    def select(
        self, candidates: Candidates, k: int, *, generator: torch.Generator, dictionary: Candidates | None = None
    ) -> Selection:
        outrank_fraction = required(candidates.outrank_fraction, "outrank_fraction")
        selection = Hard().select(candidates, k, generator=generator)
        average = outrank_fraction.masked_fill(~candidates.valid, 0.0).sum() / candidates.valid.sum().clamp(min=1)
        excess = float(outrank_fraction[selection.indices].mean() - average) if len(selection.indices) else 0.0
        if excess > self.threshold:
            selection = KCenter().select(candidates, k, generator=generator, dictionary=dictionary)
        return replace(selection, stats={**selection.stats, "excess": excess, "hard": float(excess <= self.threshold)})
