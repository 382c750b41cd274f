"""The hardest candidates, unless they look like false negatives; then coverage."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from config.load import ConfigError
from sampler.base import Candidates, Selection, required
from sampler.hard import Hard
from sampler.kcenter import KCenter


@dataclass(kw_only=True)
class Adaptive:
    """`hard` or `kcenter`, whichever fits the batch and the pool: decided anew at each selection, without labels.

    A false negative outranks the positive of its query (is more similar to the query) about every second time, any
    other candidate the more rarely the more the encoders have learnt. So what tells false negatives from hard ones is
    not how similar they are but how often they outrank. The picks are spread by farthest-first traversal

    - where a few classes make most of the data: the hardest rows are of these, and outrank far more positives than
      the pool's rows do on average;
    - early in training: while everything outranks everything, what is similar is no better than the rest.

    Otherwise they are the hardest.
    """

    average: float = 0.25
    """Share of the queries whose positive a row of the pool may outrank on average; beyond it the picks are spread."""
    excess: float = 0.06
    """The same share for the hardest rows, less the pool's average; likewise."""

    def __post_init__(self) -> None:
        for name in ("average", "excess"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"sampler.options.{name} must be in [0, 1], not {getattr(self, name)}")

    def select(
        self, candidates: Candidates, k: int, *, generator: torch.Generator, dictionary: Candidates | None = None
    ) -> Selection:
        outranking = required(candidates.outranking, "outranking")
        hardest = Hard().select(candidates, k, generator=generator)
        average, at_hardest = torch.stack(
            [_mean(outranking[candidates.valid]), _mean(outranking[hardest.indices])]
        ).tolist()
        excess = at_hardest - average
        hard = average <= self.average and excess <= self.excess
        selection = hardest
        if not hard:
            selection = KCenter().select(candidates, k, generator=generator, dictionary=dictionary)
        stats = {"outranking": average, "excess": excess, "hard": float(hard)}
        return replace(selection, stats={**selection.stats, **stats})


def _mean(values: Tensor) -> Tensor:
    """Mean, 0 of nothing."""
    return values.sum() / max(len(values), 1)
