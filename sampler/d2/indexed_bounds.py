"""Upper bounds on D² that are lowered only where a new centre is likely to matter.

The rows are partitioned into cells, each represented by one of its rows. A new centre is compared with the
representatives. A cell is evaluated only if the centre is nearer to its representative than all earlier centres, and
then only in rows whose bound is not small. A row that is left out keeps too high a bound, which may waste a proposal
but never changes the distribution.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sampler.base import Candidates, required
from sampler.d2.dense_bounds import DenseBounds
from sampler.d2.distance import RELATIVE_FLOOR, squared_distances

_MASS_SHARE = 0.5
"""Rows with a bound below this share of the mean bound are not evaluated: together they are seldom proposed."""
_DENSE_SHARE = 0.5
"""If more than this share of all pairs would be evaluated, one dense pass is faster than many small ones."""


class IndexedBounds:
    """Bounds over the cells of an index. Any partition gives valid bounds; a good one makes them cheap."""

    exact = False

    def __init__(self, rows: Candidates, norms: Tensor, cell: Tensor) -> None:
        """
        Args:
            rows: N rows.
            norms: [N] |g|².
            cell: [N] int64, the cell of each row, at least 0.
        """
        self.rows, self.norms, self.dense = rows, norms, DenseBounds(rows, norms)
        self.cell = cell
        self.order = cell.argsort(stable=True)

    def lower(self, u: Tensor, centres: Candidates, centre_norms: Tensor) -> int:
        """Sets u to min(u, D² to the centres) in the cells that the centres come near; see `Bounds.lower`."""
        # The rows whose bounds are worth lowering (see _MASS_SHARE). All bounds are inf before the first centre.
        alive = (u > _MASS_SHARE * u.mean()) if torch.isfinite(u.sum()) else u > 0
        listed = self.order[alive[self.order]]
        sizes = torch.bincount(self.cell[listed])
        sizes = sizes[sizes > 0]
        # Representatives are chosen in each call: if one was picked itself, its cell would never be probed again.
        representative = listed[sizes.cumsum(0) - (sizes + 1) // 2]
        near = squared_distances(self.rows.rows(representative), self.norms[representative], centres, centre_norms)
        probed = near < u[representative][:, None]
        pairs = int((probed.sum(1) * sizes).sum())
        if pairs > _DENSE_SHARE * len(u) * len(centre_norms):
            return self.dense.lower(u, centres, centre_norms)
        visited = probed.any(1).nonzero().squeeze(1).tolist()
        if visited:
            self._evaluate(u, centres, centre_norms, probed, visited, listed.split(sizes.tolist()))
        return pairs + probed.numel()

    def _evaluate(
        self,
        u: Tensor,
        centres: Candidates,
        centre_norms: Tensor,
        probed: Tensor,
        visited: list[int],
        alive_rows: tuple[Tensor, ...],
    ) -> None:
        """Lowers u for the rows of the visited cells.

        Args:
            probed: [cells, C] bool, whether a centre comes near a cell.
            visited: the cells that some centre comes near.
            alive_rows: for each cell, the row numbers to evaluate.
        """
        nearest = []
        # Each cell is gathered into the same memory: new pages would cost more than the copy.
        largest = max(len(alive_rows[cell]) for cell in visited)
        a = torch.empty(largest, self.rows.a.shape[1], device=u.device)
        b = None if self.rows.b is None else torch.empty(largest, self.rows.b.shape[1], device=u.device)
        for cell in visited:
            rows, near = alive_rows[cell], probed[cell].nonzero().squeeze(1)
            inner = torch.index_select(self.rows.a, 0, rows, out=a[: len(rows)]) @ centres.a[near].T
            if b is not None:
                second = torch.index_select(required(self.rows.b, "b"), 0, rows, out=b[: len(rows)])
                inner.mul_(second @ required(centres.b, "b")[near].T)
            nearest.append(inner.mul_(-2).add_(centre_norms[near]).amin(1))
        index = torch.cat([alive_rows[cell] for cell in visited])
        norms = self.norms[index]
        bound = torch.cat(nearest).add_(norms)
        bound.masked_fill_(bound < RELATIVE_FLOOR * norms, 0.0)
        u[index] = torch.fmin(u[index], bound)
