"""The vectors of one modality of an index: exact search, or IVF-PQ whose best answers are compared exactly.

The exact vectors are a FAISS file that is mapped into memory; so are the inverted lists of IVF-PQ. Scores are inner
products of unit vectors, which are cosine similarities.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from search.index.folder import SearchIndexError, Structure

_untyped: Any = faiss  # its types do not know what its wrappers for Python accept
_FEW = 20_000
"""Up to this many vectors that a filter leaves are compared exactly, even with IVF-PQ."""


@dataclass(frozen=True, kw_only=True)
class Vectors:
    """The n vectors of a modality, opened for search."""

    exact: Any
    """FAISS's flat index, inner product, n vectors of D float32."""
    ids: np.ndarray
    """int64 [n], ascending: the ids of the rows that the vectors belong to."""
    structure: Structure
    cells: Any = None
    """FAISS's IVF-PQ index, which knows the vectors by the ids of their rows; None with kind=exact."""

    @property
    def dim(self) -> int:
        return int(self.exact.d)

    def vector(self, identifier: int) -> np.ndarray | None:
        """The vector of a row, float32 [D]; None if it has none."""
        place = int(np.searchsorted(self.ids, identifier))
        if place == len(self.ids) or self.ids[place] != identifier:
            return None
        return self.exact.reconstruct(place)

    def search(
        self, queries: np.ndarray, top: int, *, among: np.ndarray | None = None, probes: int = 0
    ) -> tuple[np.ndarray, np.ndarray]:
        """The nearest vectors of each query, the best first.

        Args:
            queries: float32 [q, D], unit vectors.
            top: most results per query.
            among: int64 [m], ascending: the ids that may be found; None for all.
            probes: number of cells to look into, in place of that of the structure.

        Returns:
            Cosine similarities, float32 [q, k], and ids, int64 [q, k], where k <= top is the number of results.

        Raises:
            SearchIndexError: a query is not finite or has another length.
        """
        queries = checked(queries, self.dim)
        if among is not None:
            places = np.minimum(np.searchsorted(self.ids, among), len(self.ids) - 1)
            among = among[self.ids[places] == among]
        count = len(self.ids) if among is None else len(among)
        top = min(top, count)
        if not top:
            return np.zeros((len(queries), 0), np.float32), np.zeros((len(queries), 0), np.int64)
        if among is not None and len(among) <= _FEW:
            return self._best(queries, np.tile(among, (len(queries), 1)), top)
        if self.cells is None:
            scores, places = self.exact.search(queries, top, params=self._only(among))
            return scores, self.ids[places]
        parameters = _untyped.SearchParametersIVF(nprobe=probes or self.structure.probes, **_selector(among))
        _, found = self.cells.search(queries, min(count, top * self.structure.refine), params=parameters)
        return self._best(queries, found, top)

    def _only(self, among: np.ndarray | None) -> Any:
        if among is None:
            return None
        return faiss.SearchParameters(**_selector(np.searchsorted(self.ids, among)))

    def _best(self, queries: np.ndarray, candidates: np.ndarray, top: int) -> tuple[np.ndarray, np.ndarray]:
        """Compares each query with its candidates exactly; int64 [q, c], -1 for none."""
        scores = np.full(candidates.shape, -np.inf, np.float32)
        for query, ids, out in zip(queries, candidates, scores, strict=True):
            real = ids >= 0
            out[real] = self.exact.reconstruct_batch(np.searchsorted(self.ids, ids[real])) @ query
        order = np.argsort(-scores, axis=1, kind="stable")[:, :top]
        scores, ids = np.take_along_axis(scores, order, 1), np.take_along_axis(candidates, order, 1)
        # Cells that hold too few vectors leave the last places of some queries empty; callers drop those.
        return scores, np.where(np.isfinite(scores), ids, -1)


def checked(queries: np.ndarray, dim: int) -> np.ndarray:
    """Returns the queries as float32 [q, D] in C order.

    Raises:
        SearchIndexError: a value is not finite, or they have another length.
    """
    queries = np.ascontiguousarray(queries, dtype=np.float32)
    if queries.ndim != 2 or queries.shape[1] != dim:
        raise SearchIndexError(f"the index holds vectors of {dim} numbers, not of shape {list(queries.shape)}")
    if not np.isfinite(queries).all():
        raise SearchIndexError("the vector of the query is not finite, so nothing is near it")
    return queries


def open_vectors(exact: Path, cells: Path | None, *, ids: np.ndarray, structure: Structure) -> Vectors:
    """Maps the files of a modality into memory.

    Raises:
        SearchIndexError: a file is missing or damaged, or they do not belong together.
    """
    flat = read_faiss(exact, faiss.IO_FLAG_MMAP_IFC)
    lists = read_faiss(cells, faiss.IO_FLAG_MMAP) if cells is not None else None
    if flat.ntotal != len(ids) or (lists is not None and (lists.ntotal, lists.d) != (flat.ntotal, flat.d)):
        raise SearchIndexError(f"{exact} does not hold the {len(ids)} vectors of its rows: build the index again")
    return Vectors(exact=flat, ids=ids, structure=structure, cells=lists)


def read_faiss(path: Path, flags: int = 0) -> Any:
    """Reads a FAISS file.

    Raises:
        SearchIndexError: it is missing or damaged.
    """
    try:
        return faiss.read_index(str(path), flags)
    except RuntimeError as error:
        problem = "is missing" if not path.exists() else "is damaged"
        raise SearchIndexError(f"{path} {problem}: build the index again") from error


def write_faiss(index: Any, path: Path) -> None:
    """Writes a FAISS file.

    Raises:
        OSError: it cannot be written.
    """
    try:
        faiss.write_index(index, str(path))
    except RuntimeError as error:  # FAISS says nothing about the reason
        raise OSError(f"cannot write {path}: is the disk full?") from error


def _selector(ids: np.ndarray | None) -> dict[str, Any]:
    if ids is None:
        return {}
    bits = np.zeros(int(ids[-1]) + 1, dtype=bool)
    bits[ids] = True
    return {"sel": _untyped.IDSelectorBitmap(np.packbits(bits, bitorder="little"))}
