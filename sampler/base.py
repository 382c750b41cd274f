"""What every sampler gets and gives back."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Candidates:
    """Rows a sampler may pick from; row n stands for the rank-one embedding a_n b_nᵀ, which is never formed.

    Inner products need the factors only: <g_n, g_m> = (a_n·a_m)(b_n·b_m).
    """

    a: Tensor
    """[N, D] float32, the keys."""
    b: Tensor | None = None
    """[N, H] float32, or None when the embedding is the key itself (g_n = a_n)."""
    ids: Tensor
    """[N] int64 sample ids, -1 for an empty row."""
    valid: Tensor
    """[N] bool; only these rows may be picked."""
    write_index: Tensor
    """[N] int64; each write to the pool has a larger stamp, so equal write_index mean an unchanged row."""
    loss: Tensor | None = None
    """[N] float32, cross-entropy against the pseudo-label; None if the embedding asks for no queries."""
    similarity: Tensor | None = None
    """[N] float32, log-sum-exp of the similarity to the batch's queries; None likewise."""
    outrank_fraction: Tensor | None = None
    """[N] float32, share of the batch's queries that the row is more similar to than their own positive key is; None
    where positives are not known."""

    def __len__(self) -> int:
        return len(self.a)

    def rows(self, index: Tensor | slice) -> Candidates:
        """The same table with only these rows."""
        return replace(
            self,
            a=self.a[index],
            b=None if self.b is None else self.b[index],
            ids=self.ids[index],
            valid=self.valid[index],
            write_index=self.write_index[index],
            loss=None if self.loss is None else self.loss[index],
            similarity=None if self.similarity is None else self.similarity[index],
            outrank_fraction=None if self.outrank_fraction is None else self.outrank_fraction[index],
        )


@dataclass(frozen=True, kw_only=True)
class Selection:
    """What was picked, in the order of picking."""

    indices: Tensor
    """[k] int64 rows of the candidates, all different, all valid; k is what was asked for or all there was."""
    distances: Tensor
    """[k] float32 D² of each pick when it was picked (inf for the first, 0 where D² played no part)."""
    stats: dict[str, float]
    """Plain numbers for the metrics; always `selected`, `missing` (asked for but not there) and `invalid`
    (rows that are not finite)."""


class Sampler(Protocol):
    """A selection rule. Options are the fields of a dataclass, checked in its `__post_init__`.

    A sampler draws from `generator` (a CPU generator, whatever the device) and nothing else, so that equal
    candidates and seeds give equal picks. It never raises on strange numbers: see sampler/fallbacks.py.
    """

    def select(
        self,
        candidates: Candidates,
        k: int,
        *,
        generator: torch.Generator,
        dictionary: Candidates | None = None,
    ) -> Selection:
        """Picks min(k, valid finite rows) different rows.

        Args:
            candidates: N rows.
            k: how many, at least 0.
            generator: source of every random number.
            dictionary: rows that count as already chosen; distances start from them. Rules without distances
                ignore it.
        """
        ...


def required(column: Tensor | None, name: str) -> Tensor:
    """A column of the candidates that a rule cannot do without.

    Raises:
        ValueError: the candidates came without it.
    """
    if column is None:
        raise ValueError(f"this sampler needs Candidates.{name}, which was not given")
    return column
