"""Exact D² sampling in blocks with rejection and dense distances: the default.

On a GPU, the default precision samples from the D² distribution of the bf16-rounded factors.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sampler.base import Candidates, Selection
from sampler.d2.blocked import select_blocked
from sampler.d2.dense_bounds import DenseBounds, Precision, RoughBounds, fast_bf16
from sampler.d2.device_rounds import select_on_device
from sampler.d2.distribution import FirstPick

ROUGH_FROM_ROWS = 4096
"""Smallest pool, in rows, for which precision auto uses bf16 on a CPU. In smaller pools, verifying proposals costs more
than bf16 saves: picking 32 of 640 rows takes 5.2 ms with bf16 and 3.8 ms without (factors of 384 columns in all). Times
are equal at 4,096 rows (one CPU core with AVX-512 BF16)."""


@dataclass(kw_only=True)
class KMeansPP:
    """Samples from the exact D² distribution (on a GPU: see `precision`) at a small fraction of the cost of
    `kmeanspp_sequential`."""

    first_pick: FirstPick = "uniform"
    """The distribution of the first pick."""
    precision: Precision = "auto"
    """Precision of the dense products; auto uses bf16 on every GPU, and on a CPU where it is faster (large pools,
    AVX-512 BF16). On a CPU bf16 never changes the distribution: it gives bounds that are verified in float32. On a GPU
    bf16 samples from the distribution of the bf16-rounded factors."""

    def select(
        self, candidates: Candidates, k: int, *, generator: torch.Generator, dictionary: Candidates | None = None
    ) -> Selection:
        """Draws blocks of proposals and rejects some; on a GPU without waiting for each block."""
        if candidates.a.is_cuda:
            return select_on_device(
                candidates,
                k,
                bf16=self.precision != "fp32",
                first_pick=self.first_pick,
                generator=generator,
                dictionary=dictionary,
            )
        return select_blocked(
            candidates,
            k,
            make_bounds=self._bounds,
            first_pick=self.first_pick,
            generator=generator,
            dictionary=dictionary,
        )

    def _bounds(self, rows: Candidates, norms: Tensor, usable: Tensor) -> DenseBounds:
        bf16_pays = len(rows) >= ROUGH_FROM_ROWS and fast_bf16(norms.device)
        rough = self.precision == "bf16" or (self.precision == "auto" and bf16_pays)
        return (RoughBounds if rough else DenseBounds)(rows, norms)
