"""Finds the rows of an index that are nearest to a vector."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from common.terminal import printable
from search.index.folder import MODALITIES, SearchIndexError
from search.index.open import Index
from search.index.rows import Row


@dataclass(frozen=True, kw_only=True)
class Hit:
    """A row that was found."""

    row: Row
    score: float
    """Cosine similarity with the query."""

    def as_json(self) -> dict[str, Any]:
        """The hit as plain values."""
        return {"id": self.row.id, "score": round(self.score, 4)} | self.row.as_json()


def find(
    index: Index, vector: np.ndarray, modality: str, *, top: int, where: Mapping[str, str], without: int | None = None
) -> list[Hit]:
    """The rows whose vectors of a modality are nearest to a vector, the best first.

    Args:
        vector: float32 [D].
        top: most hits.
        where: labels that the rows must have.
        without: id of a row that is not to be found: the query itself.

    Raises:
        SearchIndexError: the index has no vectors of the modality or no such label, or the vector is not finite.
    """
    if not index.head.rows:
        return []
    if modality not in index.vectors:
        there = " and ".join(index.vectors) or "none"
        raise SearchIndexError(f"the index holds no {modality} vectors; it holds: {there}")
    mask = index.rows.matching(where)
    among = None if mask is None else index.rows.ids[mask]
    wanted = top if without is None else top + 1
    scores, ids = index.vectors[modality].search(vector[None], wanted, among=among)
    real = (ids[0] >= 0) & (ids[0] != (-1 if without is None else without))
    found = index.rows.rows(ids[0][real][:top])
    return [Hit(row=row, score=float(score)) for row, score in zip(found, scores[0][real], strict=False)]


def vector_of(index: Index, row: Row, modality: str | None) -> tuple[str, np.ndarray]:
    """The modality and vector of a row; without a modality, its video's or else its sound's.

    Raises:
        SearchIndexError: the row has no such vector.
    """
    for name in [modality] if modality else MODALITIES:
        vector = index.vectors[name].vector(row.id) if name in index.vectors else None
        if vector is not None:
            return name, vector
    raise SearchIndexError(f"{printable(row.source)} has no {modality or ''} vector in the index".replace("  ", " "))
