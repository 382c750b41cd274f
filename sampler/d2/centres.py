"""The centres chosen so far, and the true D² of proposals to them."""

from __future__ import annotations

import torch
from torch import Tensor

from sampler.base import Candidates, required
from sampler.d2.dense_bounds import fast_bf16, rounding_error
from sampler.d2.distance import floor_to_zero, squared_distances
from sampler.d2.proposals import Proposals

_CHUNK = 512
"""Number of centres that a block of proposals is compared with at a time."""
_STILL_WORTH = 0.9
"""Share of undecided proposals below which the others are dropped; dropping copies the proposals that stay."""
_PAIRS = 2048
"""Number of single pairs of rows that are computed at a time."""
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

    def nearest(self, proposals: Proposals, threshold: Tensor) -> tuple[Tensor, int]:
        """Computes D² of each proposal to its nearest centre, at most its bound.

        A proposal whose distance to some centre is below its threshold will be rejected, and is not compared with the
        other centres. The newest centres come first, because the bounds do not reflect them yet.

        Args:
            proposals: B proposals.
            threshold: [B] float64; a D² of at most the threshold need not be exact.

        Returns:
            [B] float32, D² or, of a proposal that will be rejected, an upper bound of it; and the number of pairs.
        """
        nearest, pairs = proposals.bound.clone(), 0
        left = torch.arange(len(nearest), device=nearest.device)
        for start in reversed(range(0, self.count, _CHUNK)):
            undecided = nearest[left] > threshold[left]
            kept = int(undecided.sum())
            if kept < _STILL_WORTH * len(left):
                left, proposals = left[undecided], proposals.among(undecided)
            if not kept:
                break
            chunk = slice(start, min(start + _CHUNK, self.count))
            nearest[left] = self._nearest_in(proposals, chunk, nearest[left])
            pairs += len(left) * (chunk.stop - start)
        return nearest, pairs

    def _nearest_in(self, proposals: Proposals, chunk: slice, best: Tensor) -> Tensor:
        """Returns the smaller of `best` and D² to the centres of a chunk, [B]."""
        screen = self._screen(proposals, chunk, best) if self._bf16 else None
        if screen is not None and len(screen[0]) * _PAIR_COST < len(best) * (chunk.stop - chunk.start):
            self._exact_pairs(proposals, screen[0], screen[1] + chunk.start, best)
        else:
            d2 = squared_distances(proposals.rows, proposals.norms, self.factors(chunk), self.norms[chunk])
            torch.minimum(best, d2.amin(1), out=best)
        return floor_to_zero(best, proposals.norms)

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
        for pairs in torch.arange(len(rows), device=rows.device).split(_PAIRS):
            row, centre = rows[pairs], centres[pairs]
            inner = torch.linalg.vecdot(proposals.rows.a[row], self._a[centre])
            if self._b is not None:
                inner.mul_(torch.linalg.vecdot(required(proposals.rows.b, "b")[row], self._b[centre]))
            best.scatter_reduce_(0, row, proposals.norms[row] + self.norms[centre] - 2 * inner, "amin")
