"""D² sampling on a sketch of the gradient embeddings: approximate, and cheaper by the ratio of the dimensions."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from sampler.base import Candidates, Selection
from sampler.d2.blocked import select_blocked
from sampler.d2.dense_bounds import DenseBounds
from sampler.d2.distribution import First
from sampler.d2.sketch import tensor_sketch
from settings.load import ConfigError


@dataclass(kw_only=True)
class KMeansPPSketch:
    """Exact blocked sampling of the sketched rows; distances are estimates, so the law is near the exact one."""

    first: First = "uniform"
    """Law of the first pick."""
    dim: int = 128
    """Length of the sketch: 64 is faster, 128 nearer to the exact law."""

    def __post_init__(self) -> None:
        if self.dim < 1:
            raise ConfigError(f"sampler.options.dim must be at least 1, not {self.dim}")

    def select(
        self, candidates: Candidates, k: int, *, generator: torch.Generator, dictionary: Candidates | None = None
    ) -> Selection:
        return select_blocked(
            self._sketched(candidates),
            k,
            make_bounds=lambda rows, norms, usable: DenseBounds(rows, norms),
            first=self.first,
            generator=generator,
            dictionary=None if dictionary is None else self._sketched(dictionary),
        )

    def _sketched(self, candidates: Candidates) -> Candidates:
        return replace(candidates, a=tensor_sketch(candidates, self.dim), b=None)
