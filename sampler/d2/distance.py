"""Squared distances between rank-one embeddings, from their factors.

|g_n - g_m|² = |a_n|²|b_n|² + |a_m|²|b_m|² - 2 (a_n·a_m)(b_n·b_m)
"""

from __future__ import annotations

import torch
from torch import Tensor

from sampler.base import Candidates, required

RELATIVE_FLOOR = 4e-6
"""D² below this share of |g_n|² is rounding noise of the formula above and counts as 0, so that an exact duplicate
of a pick is never picked. The share corresponds to two embeddings within 0.2 % of each other."""

_CACHE_LINE = 16
"""Number of float32 values in a cache line of a CPU."""


def squared_norms(candidates: Candidates) -> Tensor:
    """Returns |g_n|², [N] float32; it is not finite where a factor is not, or where a distance might overflow."""
    # vector_norm passes over the factor once; square().sum() is 15 times slower because of its temporary.
    norms = torch.linalg.vector_norm(candidates.a, dim=1, dtype=torch.float32)
    if candidates.b is not None:
        norms = norms * torch.linalg.vector_norm(candidates.b, dim=1, dtype=torch.float32)
    squares = norms.square()
    # A D² is at most four times the larger |g|²; beyond this limit it could become infinite and win every comparison.
    return squares.masked_fill_(squares > torch.finfo(torch.float32).max / 8, torch.inf)


def product(rows: Tensor, centres: Tensor) -> Tensor:
    """Returns rows @ centresᵀ, [N, D], [C, D] -> [N, C] float32; products of bf16 factors are not rounded to bf16."""
    if rows.dtype != torch.bfloat16:
        return _aligned_product(rows, centres)
    if rows.is_cuda:
        return torch.mm(rows, centres.T, out_dtype=torch.float32)
    return _aligned_product(rows.float(), centres.float())


def _aligned_product(rows: Tensor, centres: Tensor) -> Tensor:
    # The result's rows are padded to whole cache lines: with other row lengths MKL has two thirds of the speed.
    width = -(-len(centres) // _CACHE_LINE) * _CACHE_LINE
    if width == len(centres) or len(centres) == 1 or rows.is_cuda:
        return rows @ centres.T
    padded = rows.new_empty(len(rows), width)[:, : len(centres)]
    return torch.mm(rows, centres.T, out=padded)


def squared_distances(rows: Candidates, norms: Tensor, centres: Candidates, centre_norms: Tensor) -> Tensor:
    """Returns |g_n - g_m|² of N rows to C centres, [N, C] float32; `norms` [N] and `centre_norms` [C] are |g|²."""
    inner = product(rows.a, centres.a)
    if rows.b is not None:
        inner.mul_(product(rows.b, required(centres.b, "b")))
    return inner.mul_(-2).add_(norms[:, None]).add_(centre_norms)


def floor_to_zero(d2: Tensor, norms: Tensor) -> Tensor:
    """Sets D² that is only rounding noise to exactly 0, in place; NaN stays. [N], [N] -> [N]."""
    return d2.masked_fill_(d2 < RELATIVE_FLOOR * norms, 0.0)
