"""Synthetic pools of gradient factors to benchmark samplers on."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from sklearn.datasets import load_sample_image
from torch import Tensor

from sampler.base import Candidates
from sampler.gradient import gradient_factors

KEY_DIM, HIDDEN_DIM = 128, 512
_CHUNK = 65_536
_PATCH = 16


def make_pool(kind: str, count: int, *, seed: int = 0) -> Candidates:
    """A pool of `count` candidates.

    heavy: 90 % in 10 clusters, half of the rows near-duplicates of the other half, lognormal gradient norms.
    pareto: the same with Pareto-distributed norms whose squares have no mean, so a few rows hold most of the mass.
    real: keys are patches of two photographs, and gradients are computed with 128 such queries.
    iso: isotropic directions of norm 1, the hardest case for any index.

    The factors have D = 128 and H = 512 columns.
    """
    generator = torch.Generator().manual_seed(seed)
    a, b = KINDS[kind](count, generator)
    ids = torch.arange(count)
    return Candidates(a=a, b=b, ids=ids, valid=torch.ones(count, dtype=torch.bool), write_index=ids.clone())


def _directions(count: int, dim: int, generator: torch.Generator) -> Tensor:
    rows = torch.randn(count, dim, generator=generator)
    return rows.div_(torch.linalg.vector_norm(rows, dim=1, keepdim=True))


def _iso(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    return _directions(count, KEY_DIM, generator), _directions(count, HIDDEN_DIM, generator)


def _lognormal(count: int, generator: torch.Generator) -> Tensor:
    return torch.randn(count, 1, generator=generator).exp_()


def _pareto(count: int, generator: torch.Generator) -> Tensor:
    return (1 - torch.rand(count, 1, generator=generator)).clamp_(min=1e-6).pow_(-0.5)


def _clustered(
    count: int, generator: torch.Generator, *, draw_norms: Callable[[int, torch.Generator], Tensor]
) -> tuple[Tensor, Tensor]:
    originals = -(-count // 2)
    cluster = torch.randint(10, (originals,), generator=generator)
    clustered = torch.rand(originals, 1, generator=generator) < 0.9
    norms = draw_norms(originals, generator)
    source = torch.cat([torch.arange(originals), torch.randint(originals, (count - originals,), generator=generator)])
    factors = []
    for dim in (KEY_DIM, HIDDEN_DIM):
        centres = _directions(10, dim, generator)
        base = _directions(originals, dim, generator).mul_(torch.where(clustered, 0.3, 1.0))
        factor = torch.empty(count, dim)
        for rows in torch.arange(originals).split(_CHUNK):
            base[rows] += centres[cluster[rows]] * clustered[rows]
            base[rows] = F.normalize(base[rows], dim=1)
        for rows in torch.arange(count).split(_CHUNK):
            factor[rows] = F.normalize(base[source[rows]] + 0.01 * _directions(len(rows), dim, generator), dim=1)
        factors.append(factor)
    return factors[0], factors[1].mul_(norms[source])


def _real(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    projection = torch.randn(3 * _PATCH**2, KEY_DIM, generator=generator)
    images = [torch.from_numpy(load_sample_image(name).copy()).float() / 255 for name in ("china.jpg", "flower.jpg")]
    keys = torch.empty(count, KEY_DIM)
    for rows in torch.arange(count).split(_CHUNK):
        keys[rows] = _embed(_patches(images, len(rows), generator), projection)
    queries = _embed(_patches(images, 128, generator), projection)
    hidden = torch.relu(queries @ torch.randn(KEY_DIM, HIDDEN_DIM, generator=generator))
    factors = gradient_factors(keys, queries, hidden, embedding="gradient", temperature=0.1)
    return factors.a, factors.b


def _patches(images: list[Tensor], count: int, generator: torch.Generator) -> Tensor:
    """Random 16 x 16 windows of the photographs, float32 [count, 3 * 16 * 16]."""
    stack = torch.stack(images)
    which = torch.randint(len(images), (count, 1, 1), generator=generator)
    steps = torch.arange(_PATCH)
    top = torch.randint(stack.shape[1] - _PATCH, (count, 1, 1), generator=generator)
    left = torch.randint(stack.shape[2] - _PATCH, (count, 1, 1), generator=generator)
    return stack[which, top + steps[None, :, None], left + steps[None, None, :]].flatten(1)


def _embed(patches: Tensor, projection: Tensor) -> Tensor:
    return F.normalize((patches - patches.mean(1, keepdim=True)) @ projection, dim=1)


KINDS = {
    "heavy": partial(_clustered, draw_norms=_lognormal),
    "pareto": partial(_clustered, draw_norms=_pareto),
    "real": _real,
    "iso": _iso,
}
"""Name -> function (count, generator) that returns the factors a, b."""
