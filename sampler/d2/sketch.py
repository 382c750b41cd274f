"""Short vectors whose inner products estimate those of the rank-one embeddings."""

from __future__ import annotations

import torch
from torch import Tensor

from sampler.base import Candidates


def tensor_sketch(candidates: Candidates, dim: int, *, seed: int = 0) -> Tensor:
    """Returns s_n = (R a_n) * (S b_n) / sqrt(dim) with Gaussian R and S, [N, dim] float32: E[s_n·s_m] = <g_n, g_m>.

    This is the Johnson-Lindenstrauss projection of g_n onto random rank-one directions, without forming g_n. Equal rows
    have equal sketches. R and S depend only on the seed, so the sketch of a row does not change between calls.
    """
    generator = torch.Generator().manual_seed(seed)

    def project(factor: Tensor) -> Tensor:
        projection = torch.randn(factor.shape[1], dim, generator=generator).to(factor)
        return factor @ projection

    sketch = project(candidates.a).div_(dim**0.5)
    return sketch if candidates.b is None else sketch.mul_(project(candidates.b))
