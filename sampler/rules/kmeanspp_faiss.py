"""Exact D² sampling over a FAISS index: most of the pool is never compared with most of the centres."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from sampler.base import Candidates, Selection
from sampler.d2.blocked import select_blocked
from sampler.d2.distribution import FirstPick
from sampler.d2.faiss_index import PersistentIndex, assign, train_quantiser
from sampler.d2.indexed_bounds import IndexedBounds
from sampler.d2.sketch import tensor_sketch
from settings.errors import ConfigError

_ROWS_PER_CELL, _MAX_CELLS = 300, 2048
"""Number of rows per cell, and the largest number of cells, if `cells` is 0."""


@dataclass(kw_only=True)
class KMeansPPFaiss:
    """Samples from the exact D² distribution, whatever the index finds (see sampler/d2/blocked.py)."""

    first_pick: FirstPick = "uniform"
    """The distribution of the first pick."""
    index_on: Literal["keys", "sketch"] = "keys"
    """The vectors that are indexed. keys: the index persists, and only rows written since the last call are assigned
    again. sketch: the index is built at every call on a sketch of the gradient embeddings, which change with every
    batch; it is faster where many rows are picked at once."""
    cells: int = 0
    """Number of cells of the partition; 0 takes one per 300 rows, and at most 2,048."""
    sketch_dim: int = 32
    """Number of dimensions of the sketch."""

    def __post_init__(self) -> None:
        if self.cells < 0 or self.sketch_dim < 1:
            raise ConfigError(
                "sampler.options: cells must be at least 0 and sketch_dim at least 1, "
                f"not cells={self.cells} and sketch_dim={self.sketch_dim}"
            )
        self._index = PersistentIndex()

    def select(
        self, candidates: Candidates, k: int, *, generator: torch.Generator, dictionary: Candidates | None = None
    ) -> Selection:
        """Lowers the bounds only in cells of the index that a new centre comes near."""
        return select_blocked(
            candidates,
            k,
            make_bounds=self._bounds,
            first_pick=self.first_pick,
            generator=generator,
            dictionary=dictionary,
        )

    def state_dict(self) -> dict[str, Tensor]:
        """Returns the quantiser, so that a resumed run makes the same proposals."""
        return self._index.state_dict()

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self._index.load_state_dict(state)

    def _bounds(self, rows: Candidates, norms: Tensor, usable: Tensor) -> IndexedBounds:
        cells = self.cells or min(max(len(rows) // _ROWS_PER_CELL, 1), _MAX_CELLS)
        if not usable.any():
            return IndexedBounds(rows, norms, torch.zeros(len(rows), dtype=torch.int64, device=norms.device))
        if self.index_on == "keys" and rows.a.shape[1] > 1:  # the factors of key_gradient hold no keys
            # Every row that holds a clip is indexed, including rows that are excluded only in this step.
            cell = self._index.cells(rows.a, rows.write_index, rows.ids >= 0, cells=cells)
        else:
            sketch = tensor_sketch(rows, self.sketch_dim)
            cell = assign(sketch, train_quantiser(sketch[usable], cells))
        return IndexedBounds(rows, norms, cell)
