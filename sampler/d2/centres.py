"""The centres chosen so far, and the true D² of proposals to them."""

from __future__ import annotations

import torch
from torch import Tensor

from sampler.base import Candidates, required
from sampler.d2.dense_bounds import fast_bf16, rounding_error
from sampler.d2.distance import RELATIVE_FLOOR, squared_distances
from sampler.d2.proposals import Proposals

_CHUNK = 2048
"""Number of centres that a block of proposals is compared with at a time; they stay in the cache."""
_PAIR_COST = 12
"""Cost of a single pair of rows relative to its cost within a matrix product."""


class Centres:
    """The chosen rows with their factors, in arrays that are allocated once."""

    def __init__(self, like: Candidates, capacity: int) -> None:
        self.count = 0
        self.index = torch.empty(capacity, dtype=torch.int64, device=like.a.device)
        self.norms = torch.empty(capacity, device=like.a.device)
        self._a = like.a.new_empty(capacity, like.a.shape[1])
        self._b = None if like.b is None else like.b.new_empty(capacity, like.b.shape[1])
        screened = fast_bf16(like.a.device)
        self._bf16 = [f.to(torch.bfloat16) for f in (self._a, self._b) if f is not None] if screened else []

    def append(self, index: Tensor, rows: Candidates, norms: Tensor) -> None:
        """Adds n centres: row numbers [n] int64 (-1 for a row of the dictionary), the rows and their |g|² [n]."""
        new = slice(self.count, self.count + len(norms))
        self.index[new], self.norms[new], self._a[new] = index, norms, rows.a
        if self._b is not None:
            self._b[new] = required(rows.b, "b")
        for rounded, factor in zip(self._bf16, (self._a, self._b), strict=False):
            if factor is not None:
                rounded[new] = factor[new]
        self.count = new.stop

    def factors(self, which: slice) -> Candidates:
        """Returns these centres as candidates, of which only a and b are meaningful."""
        index = self.index[which]
        b = None if self._b is None else self._b[which]
        return Candidates(a=self._a[which], b=b, ids=index, valid=index >= 0, write_index=index)

    def nearest(self, proposals: Proposals) -> Tensor:
        """Returns D² of each proposal to its nearest centre, at most its bound, [B] float32."""
        best = proposals.bound.clone()
        for start in range(0, self.count, _CHUNK):
            chunk = slice(start, min(start + _CHUNK, self.count))
            screen = self._screen(proposals, chunk, best) if self._bf16 else None
            if screen is not None and len(screen[0]) * _PAIR_COST < len(best) * (chunk.stop - start):
                self._exact_pairs(proposals, screen[0], screen[1] + start, best)
            else:
                d2 = squared_distances(proposals.rows, proposals.norms, self.factors(chunk), self.norms[chunk])
                torch.minimum(best, d2.amin(1), out=best)
        return best.masked_fill_(best < RELATIVE_FLOOR * proposals.norms, 0.0)

    def _screen(self, proposals: Proposals, chunk: slice, best: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the pairs (proposal, centre) that may be nearest; others are farther by more than bf16's error."""
        inner = proposals.rows.a.bfloat16() @ self._bf16[0][chunk].T
        if self._b is not None:
            inner.mul_(required(proposals.rows.b, "b").bfloat16() @ self._bf16[1][chunk].T)
        error = rounding_error(1 if self._b is None else 2)
        # D² = p + c - 2 inner, up to an error of error * (p + c), with p and c the squared norms.
        rough = inner.float().mul_(-2).add_(self.norms[chunk])
        largest = (rough + error * self.norms[chunk]).amin(1) + (1 + error) * proposals.norms
        reach = torch.minimum(best, largest) - (1 - error) * proposals.norms
        proposal, centre = (rough.sub_(error * self.norms[chunk]) <= reach[:, None]).nonzero(as_tuple=True)
        return proposal, centre

    def _exact_pairs(self, proposals: Proposals, rows: Tensor, centres: Tensor, best: Tensor) -> None:
        for pairs in torch.arange(len(rows), device=rows.device).split(_CHUNK):
            row, centre = rows[pairs], centres[pairs]
            inner = torch.linalg.vecdot(proposals.rows.a[row], self._a[centre])
            if self._b is not None:
                inner.mul_(torch.linalg.vecdot(required(proposals.rows.b, "b")[row], self._b[centre]))
            best.scatter_reduce_(0, row, proposals.norms[row] + self.norms[centre] - 2 * inner, "amin")
