"""Approximate D² sampling: distances come from a sketch of the gradient embeddings, with fewer dimensions."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from sampler.base import Candidates, Selection
from sampler.d2.blocked import select_blocked
from sampler.d2.dense_bounds import DenseBounds
from sampler.d2.distribution import FirstPick
from sampler.d2.sketch import tensor_sketch
from settings.errors import ConfigError


@dataclass(kw_only=True)
class KMeansPPSketch:
    """Samples the sketched rows exactly; distances are estimates, so the distribution is close to the exact one."""

    first_pick: FirstPick = "uniform"
    """The distribution of the first pick."""
    dim: int = 128
    """Number of dimensions of the sketch: 64 is faster, 128 is closer to the exact distribution."""

    def __post_init__(self) -> None:
        if self.dim < 1:
            raise ConfigError(f"sampler.options.dim must be at least 1, not {self.dim}")

    def select(
        self, candidates: Candidates, k: int, *, generator: torch.Generator, dictionary: Candidates | None = None
    ) -> Selection:
        """Samples as `kmeanspp` does, from sketches of the candidates and of the dictionary."""
        return select_blocked(
            self._sketched(candidates),
            k,
            make_bounds=lambda rows, norms, usable: DenseBounds(rows, norms),
            first_pick=self.first_pick,
            generator=generator,
            dictionary=None if dictionary is None else self._sketched(dictionary),
        )

    def _sketched(self, candidates: Candidates) -> Candidates:
        return replace(candidates, a=tensor_sketch(candidates, self.dim), b=None)
