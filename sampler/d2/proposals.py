"""Proposals of blocked D² sampling: rows drawn with probability proportional to their bounds."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from sampler.base import Candidates
from sampler.d2.distribution import draw_rows


@dataclass(frozen=True, kw_only=True)
class Proposals:
    """B drawn rows with everything that is needed to accept or reject them."""

    index: Tensor
    """[B] int64 rows of the pool; a row may be drawn more than once."""
    rows: Candidates
    """The B rows themselves."""
    norms: Tensor
    """[B] float32 |g|²."""
    bound: Tensor
    """[B] float32, the weight that each row was drawn with."""

    def among(self, which: Tensor) -> Proposals:
        """Returns only these proposals, given as a bool mask [B]."""
        return Proposals(
            index=self.index[which], rows=self.rows.rows(which), norms=self.norms[which], bound=self.bound[which]
        )


def propose(weight: Tensor, uniforms: Tensor, table: Candidates, norms: Tensor) -> Proposals:
    """Draws rows with probability proportional to weight, without synchronising with the host.

    Args:
        weight: [N] float32, at least 0. If all are 0, the rows drawn are arbitrary, and their bounds are 0.
        uniforms: [B] float64 in [0, 1).
        table: the N candidates.
        norms: [N] float32 |g|².
    """
    index = draw_rows(weight, uniforms)
    return Proposals(index=index, rows=table.rows(index), norms=norms[index], bound=weight[index])
