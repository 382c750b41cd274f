"""Exact D² sampling in blocks with rejection, all distances dense: the default."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sampler.base import Candidates, Selection
from sampler.d2.blocked import select_blocked
from sampler.d2.dense_bounds import DenseBounds, Precision, RoughBounds, fast_bf16
from sampler.d2.device_rounds import select_on_device
from sampler.d2.distribution import First

ROUGH_FROM_ROWS = 4096
"""Below, verifying the bf16 bounds costs more than they save: 5.2 against 3.8 ms for 32 of 640 rows, D + H = 384, and
equal at 4,096 rows (one CPU core with AVX-512 bf16)."""


@dataclass(kw_only=True)
class KMeansPP:
    """The law of `kmeanspp_sequential` at a small part of its cost."""

    first: First = "uniform"
    """Law of the first pick."""
    precision: Precision = "auto"
    """Of the dense products; auto takes bf16 where it is faster (large pools). On a CPU bf16 never changes the law: it
    gives bounds that are verified in float32. On a GPU the law is that of the factors rounded to bf16."""

    def select(
        self, candidates: Candidates, k: int, *, generator: torch.Generator, dictionary: Candidates | None = None
    ) -> Selection:
        if candidates.a.is_cuda:
            return select_on_device(
                candidates,
                k,
                bf16=self.precision != "fp32",
                first=self.first,
                generator=generator,
                dictionary=dictionary,
            )
        return select_blocked(
            candidates,
            k,
            make_bounds=self._bounds,
            first=self.first,
            generator=generator,
            dictionary=dictionary,
        )

    def _bounds(self, rows: Candidates, norms: Tensor, usable: Tensor) -> DenseBounds:
        large = len(rows) >= ROUGH_FROM_ROWS and fast_bf16(norms.device)
        rough = self.precision == "bf16" or (self.precision == "auto" and large)
        return (RoughBounds if rough else DenseBounds)(rows, norms)
