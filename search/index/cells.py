"""Builds IVF-PQ, and measures its recall against the exact search."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import faiss
import numpy as np

from common.phases import begin
from common.randomness import numpy_generator
from search.index.folder import Structure
from search.index.vectors import Vectors

SMALLEST = 10_000
"""Fewest vectors from which cells and a codebook can be computed; with fewer the exact search is as fast anyway."""
WANTED_RECALL = 0.95
"""Recall at 10 for which the number of probed cells is chosen."""
_QUERIES = 1000
"""Size of the sample of queries on which recall is measured."""
_ANSWERS = 10
_REFINE = 20
"""Candidates per result that are compared exactly."""
_PER_CELL = 50
"""Training vectors per cell; FAISS warns below 39."""
_CODEBOOK_ROWS = 256 * 64
"""Training vectors of the product quantiser, which has 256 centroids per part."""
_ITERATIONS = 10
_BLOCK = 100_000


def train(vectors: Vectors, *, seed: int = 0) -> Any:
    """Computes the cells and the codebook, and adds all vectors by the ids of their rows; FAISS's IVF-PQ index.

    There must be at least SMALLEST vectors. The cells are computed on the GPUs that FAISS finds.
    """
    count = len(vectors.ids)
    cells = min(4 * round(math.sqrt(count)), count // _PER_CELL)
    dim = vectors.dim
    index: Any = faiss.IndexIVFPQ(faiss.IndexFlatIP(dim), dim, cells, _parts(dim), 8, faiss.METRIC_INNER_PRODUCT)
    index.cp.seed = index.pq.cp.seed = seed
    index.cp.niter = index.pq.cp.niter = _ITERATIONS
    index.cp.spherical = True
    index.pq.cp.max_points_per_centroid = _CODEBOOK_ROWS // 256
    index.clustering_index = on_gpus(faiss.IndexFlatIP(dim))
    rows = np.sort(_drawn(count, min(count, _PER_CELL * cells), purpose="cells", seed=seed))
    begin(f"computing {cells:,} cells from {len(rows):,} of {count:,} vectors")
    index.train(vectors.exact.reconstruct_batch(rows))
    index.clustering_index = None
    begin(f"adding {count:,} vectors to the cells")
    for first in range(0, count, _BLOCK):
        block = vectors.exact.reconstruct_n(first, min(_BLOCK, count - first))
        index.add_with_ids(block, vectors.ids[first : first + len(block)])
    return index


def measure(vectors: Vectors, queries: np.ndarray) -> Structure:
    """Chooses the smallest power of 2 as the number of probed cells that reaches WANTED_RECALL; returns the structure.

    Args:
        vectors: with cells.
        queries: float32 [q, D]; see `sample_queries`.
    """
    begin(f"measuring the recall over {len(queries):,} queries")
    vectors = replace(vectors, structure=replace(vectors.structure, refine=_REFINE))
    true = vectors.ids[on_gpus(vectors.exact).search(queries, _ANSWERS)[1]]
    probes = 1
    while True:
        found = vectors.search(queries, _ANSWERS, probes=probes)[1]
        recall = float(np.mean([len(np.intersect1d(a, b)) for a, b in zip(true, found, strict=True)]) / _ANSWERS)
        if recall >= WANTED_RECALL or 2 * probes > vectors.cells.nlist:
            return replace(vectors.structure, probes=probes, recall=round(recall, 4))
        probes *= 2


def on_gpus(index: Any) -> Any:
    """A copy of a flat index on the GPUs that FAISS finds, or the index itself if there are none."""
    return faiss.index_cpu_to_all_gpus(index) if faiss.get_num_gpus() else index


def sample_queries(by_modality: dict[str, Vectors], *, seed: int = 0) -> np.ndarray:
    """Vectors of all modalities in equal numbers, float32 [q, D]: what the index will be asked for."""
    share = _QUERIES // len(by_modality)
    return np.concatenate(
        [
            vectors.exact.reconstruct_batch(
                np.sort(_drawn(len(vectors.ids), min(len(vectors.ids), share), purpose=f"queries {name}", seed=seed))
            )
            for name, vectors in by_modality.items()
        ]
    )


def _parts(dim: int) -> int:
    """Number of parts of a vector that are quantised, each to one byte: one per four numbers, or nearly."""
    return max(part for part in range(1, max(1, dim // 4) + 1) if dim % part == 0)


def _drawn(count: int, wanted: int, *, purpose: str, seed: int) -> np.ndarray:
    return numpy_generator(seed, 0, f"search index {purpose}").choice(count, wanted, replace=False)
