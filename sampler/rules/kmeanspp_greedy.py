"""A better covering than that of D² sampling: sample more rows than needed, then remove some greedily."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sampler.base import Candidates, Selection
from sampler.d2.distance import squared_distances, squared_norms
from sampler.d2.distribution import FirstPick
from sampler.fallbacks import make_selection, usable_rows
from sampler.rules.kmeanspp import KMeansPP
from settings.errors import ConfigError

_ROW_CHUNK = 2048
_LIST_LENGTH = 8
"""Number of nearest centres that each row lists."""


@dataclass(kw_only=True)
class KMeansPPGreedy:
    """Samples `oversample` * k rows exactly, then drops one by one the pick whose removal raises phi the least."""

    first_pick: FirstPick = "uniform"
    """The distribution of the first pick."""
    oversample: float = 3.0
    """Number of rows sampled before the removal, as a multiple of k."""

    def __post_init__(self) -> None:
        if self.oversample < 1:
            raise ConfigError(f"sampler.options.oversample must be at least 1, not {self.oversample}")
        self._sampler = KMeansPP(first_pick=self.first_pick)

    def select(
        self, candidates: Candidates, k: int, *, generator: torch.Generator, dictionary: Candidates | None = None
    ) -> Selection:
        """Samples as `kmeanspp` does and reduces to the k picks that cover the pool best, greedily."""
        wide = self._sampler.select(candidates, round(k * self.oversample), generator=generator, dictionary=dictionary)
        usable, invalid = usable_rows(candidates, squared_norms(candidates))
        kept: slice | Tensor = slice(None)
        pairs = wide.stats["pairs"]
        if len(wide.indices) > k:
            kept = _reduce(candidates.rows(usable), candidates.rows(wide.indices), k)
            pairs += int(usable.sum()) * len(wide.indices)
        stats = {name: wide.stats[name] for name in ("rounds", "proposals", "accepted_share", "uniform_fill")}
        return make_selection(wide.indices[kept], wide.distances[kept], k, invalid=invalid, pairs=pairs, **stats)


def _reduce(rows: Candidates, centres: Candidates, k: int) -> Tensor:
    """Returns which k of the centres remain, int64 in ascending order.

    Every row lists its nearest centres. Dropping a centre raises the D² of each row nearest to it to that of the row's
    second nearest centre.
    """
    if k == 0:
        return torch.empty(0, dtype=torch.int64, device=rows.a.device)
    norms, centre_norms = squared_norms(rows), squared_norms(centres)
    alive = torch.ones(len(centres), dtype=torch.bool, device=norms.device)
    listed_d2, listed = _nearest(rows, norms, centres, centre_norms, alive)
    cost = torch.zeros(len(centres), dtype=torch.float64, device=norms.device)
    nearest, second = listed[:, 0].clone(), listed[:, 1].clone()
    step = (listed_d2[:, 1] - listed_d2[:, 0]).double()
    cost.index_add_(0, nearest, step)
    for _ in range(len(centres) - k):
        dropped = torch.where(alive, cost, torch.inf).argmin()
        alive[dropped] = False
        moved = ((nearest == dropped) | (second == dropped)).nonzero().squeeze(1)
        cost.index_add_(0, nearest[moved], -step[moved])
        left = alive[listed[moved]]
        short = moved[left.sum(1) < 2]
        if len(short):
            listed_d2[short], listed[short] = _nearest(rows.rows(short), norms[short], centres, centre_norms, alive)
            left = alive[listed[moved]]
        # The lists are sorted, so these are the first two that are still alive (the clamp matters when only one is).
        columns = torch.arange(left.shape[1], device=left.device)
        column = torch.where(left, columns, left.shape[1]).topk(2, largest=False, sorted=True).values
        column.clamp_(max=left.shape[1] - 1)
        two = listed[moved].gather(1, column)
        d2 = listed_d2[moved].gather(1, column)
        nearest[moved], second[moved] = two[:, 0], two[:, 1]
        step[moved] = (d2[:, 1] - d2[:, 0]).double()
        cost.index_add_(0, nearest[moved], step[moved])
    return alive.nonzero().squeeze(1)


def _nearest(
    rows: Candidates, norms: Tensor, centres: Candidates, centre_norms: Tensor, alive: Tensor
) -> tuple[Tensor, Tensor]:
    """Returns the nearest centres alive of each row, nearest first: D² [n, L] float32 and row numbers [n, L] int64."""
    length = min(_LIST_LENGTH, len(alive))
    d2 = torch.empty(len(norms), length, device=norms.device)
    index = torch.empty(len(norms), length, dtype=torch.int64, device=norms.device)
    for start in range(0, len(norms), _ROW_CHUNK):
        chunk = slice(start, start + _ROW_CHUNK)
        distances = squared_distances(rows.rows(chunk), norms[chunk], centres, centre_norms)
        distances.clamp_(min=0.0).masked_fill_(~alive, torch.inf)
        torch.topk(distances, length, largest=False, sorted=True, out=(d2[chunk], index[chunk]))
    return d2, index
