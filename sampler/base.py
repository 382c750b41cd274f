"""The interface of a sampler: its input, its output and its protocol."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Candidates:
    """The rows that a sampler picks from; row n has the rank-one embedding g_n = a_n b_nᵀ, which is never formed.

    Inner products need only the factors: <g_n, g_m> = (a_n·a_m)(b_n·b_m).
    """

    a: Tensor
    """[N, D] float32 keys; ones [N, 1] with the embedding key_gradient, of which b_n is the whole embedding."""
    b: Tensor | None = None
    """[N, C] float32 second factors, of a length C that depends on the embedding (sampler/gradient.py); None if the
    embedding is the key itself (g_n = a_n)."""
    ids: Tensor
    """[N] int64 sample ids; -1 marks an empty row."""
    valid: Tensor
    """[N] bool, the rows that may be picked."""
    write_index: Tensor
    """[N] int64 position in the sequence of writes to the pool: larger is newer. A row whose position is the
    same as before has not changed."""
    loss: Tensor | None = None
    """[N] float32 cross-entropy against the pseudo-label; None if it was not computed."""
    similarity: Tensor | None = None
    """[N] float32 smooth maximum of the similarity to the batch's queries (log-sum-exp); None if not computed."""
    outrank_fraction: Tensor | None = None
    """[N] float32 share of the batch's queries that are more similar to the row than to their own positive key; None if
    the positives are not known."""

    def __len__(self) -> int:
        return len(self.a)

    def rows(self, index: Tensor | slice) -> Candidates:
        """Returns only these rows (given as int64 row numbers, a bool mask or a slice)."""
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
    """The picks of a sampler, in the order of picking."""

    indices: Tensor
    """[n] int64 rows of the candidates, all different and valid; n is the number requested or available."""
    distances: Tensor
    """[n] float32 D² of each pick when it was picked: its squared distance to the nearest row chosen before (inf for
    the first pick, 0 where D² was not used)."""
    stats: dict[str, float]
    """Plain numbers for the metrics. They always include `selected`, `missing` (requested but not available) and
    `invalid` (valid rows that are not finite)."""


class Sampler(Protocol):
    """A selection rule. Its options are the fields of a dataclass, checked in its `__post_init__`.

    A sampler draws random numbers only from `generator` (a CPU generator on every device), so that equal candidates and
    seeds give equal picks. It never raises on non-finite input: see sampler/fallbacks.py.
    """

    def select(
        self,
        candidates: Candidates,
        k: int,
        *,
        generator: torch.Generator,
        dictionary: Candidates | None = None,
    ) -> Selection:
        """Picks min(k, number of valid finite rows) different rows.

        Args:
            candidates: N rows.
            k: number of rows to pick, at least 0.
            generator: source of every random number.
            dictionary: rows that count as already chosen, so that distances start from them. Rules without distances
                ignore it.

        Raises:
            ValueError: the rule needs a column of the candidates that is None.
        """
        ...


def required(column: Tensor | None, name: str) -> Tensor:
    """Returns a column of the candidates that the caller cannot do without.

    Raises:
        ValueError: the column is None.
    """
    if column is None:
        raise ValueError(f"this sampler needs Candidates.{name}, which is None; compute it with the candidates")
    return column
