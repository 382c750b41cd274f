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
_DROP_BELOW = 0.9
"""Decided proposals are dropped once the undecided share falls below this: dropping copies the undecided ones."""
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
        # Copies for `_screen`, where bf16 is faster than float32.
        copied = (self._a, self._b) if fast_bf16(like.a.device) else ()
        self._bf16 = [torch.empty_like(f, dtype=torch.bfloat16) for f in copied if f is not None]

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
        """Computes the smaller of each proposal's bound and its D² to the nearest centre.

        A proposal whose D² to some centre is at most its threshold will be rejected, and is not compared with the other
        centres. The newest centres come first, because the bounds do not reflect them yet.

        Args:
            proposals: B proposals.
            threshold: [B] float64; a D² of at most the threshold need not be exact.

        Returns:
            [B] float32: D², or an upper bound on it if the proposal will be rejected; and the number of pairs
            evaluated.
        """
        nearest, pairs = proposals.bound.clone(), 0
        left = torch.arange(len(nearest), device=nearest.device)
        for start in reversed(range(0, self.count, _CHUNK)):
            undecided = nearest[left] > threshold[left]
            kept = int(undecided.sum())
            if kept < _DROP_BELOW * len(left):
                left, proposals = left[undecided], proposals.among(undecided)
            if not kept:
                break
            chunk = slice(start, min(start + _CHUNK, self.count))
            nearest[left] = self._nearest_in(proposals, chunk, nearest[left])
            pairs += len(left) * (chunk.stop - start)
        return nearest, pairs

    def _nearest_in(self, proposals: Proposals, chunk: slice, best: Tensor) -> Tensor:
        """Lowers `best` [B] in place to D² to the nearest centre of a chunk, if that is smaller, and returns it."""
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
        # D² = |p|² + |c|² - 2 inner, up to an error of error * (|p|² + |c|²), for a proposal p and a centre c.
        rough = inner.float().mul_(-2).add_(self.norms[chunk])
        # An upper bound on D² to the nearest centre of the chunk; a pair stays if its lower bound does not exceed
        # min(best, upper). The terms with |p|² are the same for all pairs of a proposal, so they are in `limit`.
        upper = (rough + error * self.norms[chunk]).amin(1) + (1 + error) * proposals.norms
        limit = torch.minimum(best, upper) - (1 - error) * proposals.norms
        proposal, centre = (rough.sub_(error * self.norms[chunk]) <= limit[:, None]).nonzero(as_tuple=True)
        return proposal, centre

    def _exact_pairs(self, proposals: Proposals, proposal: Tensor, centre: Tensor, best: Tensor) -> None:
        """Lowers `best` in place to the D² of these pairs."""
        for p, c in zip(proposal.split(_PAIRS), centre.split(_PAIRS), strict=True):
            inner = torch.linalg.vecdot(proposals.rows.a[p], self._a[c])
            if self._b is not None:
                inner.mul_(torch.linalg.vecdot(required(proposals.rows.b, "b")[p], self._b[c]))
            best.scatter_reduce_(0, p, proposals.norms[p] + self.norms[c] - 2 * inner, "amin")
