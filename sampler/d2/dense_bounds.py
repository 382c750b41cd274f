"""D² of all rows after new centres, by a matrix product per factor and chunk of rows that stays in the cache."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from common.environment import processor
from sampler.base import Candidates, required
from sampler.d2.distance import RELATIVE_FLOOR, product

Precision = Literal["auto", "fp32", "bf16"]

CHUNK = 2048
"""Rows that are multiplied together on a CPU: few enough to stay in the cache."""

_ROUNDING = 2.0**-8
"""Largest relative error of rounding a number to bf16, whose significand has eight bits."""


def rounding_error(factors: int) -> float:
    """Returns the largest error of 2 <g_n, g_m> in bf16, as a share of |g_n|² + |g_m|².

    The inner product of each factor is rounded three times (row, centre, product), and the product of two factors once
    more (counted for a single factor, too).
    By Cauchy-Schwarz, |<g_n, g_m>| <= |g_n||g_m| <= (|g_n|² + |g_m|²) / 2.
    """
    return (1 + 3.01 * _ROUNDING) ** factors * (1 + _ROUNDING) - 1


def fast_bf16(device: torch.device) -> bool:
    """Returns whether this CPU multiplies bf16 faster than float32; False for other devices.

    Those of AMD do so by AVX-512 BF16, those of Intel by AMX only: where a virtual machine hides AMX, their products
    in bf16 take twice as long as those in float32.
    """
    if device.type != "cpu":
        return False
    if torch.cpu._is_amx_tile_supported():  # torch-private: there is no public query
        return True
    return "AMD" in processor() and torch.cpu._is_avx512_bf16_supported()  # torch-private: there is no public query


class DenseBounds:
    """Bounds that equal D² of every row, up to the rounding of float32."""

    exact = True

    def __init__(self, rows: Candidates, norms: Tensor) -> None:
        self.rows, self.norms = rows, norms
        # On a GPU, chunks only limit the memory of the product: [65,536, C] float32.
        self.chunk = CHUNK if norms.device.type == "cpu" else 32 * CHUNK

    def lower(self, u: Tensor, centres: Candidates, centre_norms: Tensor) -> int:
        """Sets u to min(u, bound on D² to the nearest of the centres), in place; returns the number of evaluated pairs.

        Args:
            u: [N] float32, the bounds so far; rows at 0 stay at 0, including rows that are not finite.
            centres: C rows.
            centre_norms: [C] their |g|².
        """
        nearest = torch.empty_like(u)
        for start in range(0, len(u), self.chunk):
            rows = slice(start, start + self.chunk)
            inner = self._product(self.rows.a[rows], centres.a)
            if self.rows.b is not None:
                inner.mul_(self._product(self.rows.b[rows], required(centres.b, "b")))
            torch.amin(inner.float().mul_(-2).add_(centre_norms), 1, out=nearest[rows])
        nearest.add_(self.norms)
        nearest.masked_fill_(nearest < RELATIVE_FLOOR * self.norms, 0.0)
        # fmin, because rows that are not finite start at 0 and must stay there.
        torch.fmin(u, nearest, out=u)
        return len(u) * len(centre_norms)

    _product = staticmethod(product)


class RoughBounds(DenseBounds):
    """Upper bounds on D² of every row, from products in bf16 and their largest possible error.

    A CPU with AVX-512 BF16 multiplies bf16 two to three times as fast as float32, but rounds the products, so that a
    duplicate of a centre would keep some D². Used as bounds they are safe: proposals are verified in float32.
    """

    exact = False

    def __init__(self, rows: Candidates, norms: Tensor) -> None:
        self.inflate = 1 + rounding_error(1 if rows.b is None else 2)
        rounded = replace(rows, a=rows.a.bfloat16(), b=None if rows.b is None else rows.b.bfloat16())
        super().__init__(rounded, norms * self.inflate)

    def lower(self, u: Tensor, centres: Candidates, centre_norms: Tensor) -> int:
        rounded = replace(centres, a=centres.a.bfloat16(), b=None if centres.b is None else centres.b.bfloat16())
        return super().lower(u, rounded, centre_norms * self.inflate)

    @staticmethod
    def _product(rows: Tensor, centres: Tensor) -> Tensor:
        return rows @ centres.T
