"""Maps, nearest neighbours and clusters of embeddings."""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE

from common.finite import require_finite
from evaluation.features import unit_rows

NEIGHBOURS = 8
MOST_CLUSTERS = 10
BLOCK_ROWS = 512
"""Number of queries that are compared at a time: with 20,000 keys a block of similarities takes 80 MB."""
Method = Literal["tsne", "pca"]


class Neighbours(NamedTuple):
    """The clips nearest to each of n clips, nearest first; m is NEIGHBOURS or, if that is fewer, n - 1."""

    rows: np.ndarray
    """int64 [n, m]."""
    cosines: np.ndarray
    """float64 [n, m], their cosine similarities."""


def project(embedding: np.ndarray, *, method: Method, seed: int) -> np.ndarray:
    """Projects embeddings, float32 [n, D], to a map with coordinates in [0, 1], float64 [n, 2].

    Raises:
        NotFiniteError: an embedding is not finite.
    """
    require_finite(embedding, "the embeddings")
    if method == "pca":
        flat = PCA(n_components=2, random_state=seed).fit_transform(embedding)
    else:
        # t-SNE requires a perplexity below the number of points.
        perplexity = min(30.0, (len(embedding) - 1) / 3)
        flat = TSNE(perplexity=perplexity, init="pca", metric="cosine", random_state=seed).fit_transform(embedding)
    low, high = flat.min(axis=0), flat.max(axis=0)
    return (flat - low) / np.maximum(high - low, 1e-12)


def nearest(queries: np.ndarray, keys: np.ndarray) -> Neighbours:
    """For each row of `queries` [n, D], the nearest rows of `keys` [n, D].

    If both are the same array, a row is not its own neighbour. Equal similarities are ordered by row.

    Raises:
        NotFiniteError: a row is not finite.
    """
    require_finite(queries, "the embeddings of the queries")
    require_finite(keys, "the embeddings of the keys")
    units, unit_keys = unit_rows(queries), unit_rows(keys).T
    count = min(NEIGHBOURS, len(keys) - 1)
    rows, cosines = [], []
    for first in range(0, len(queries), BLOCK_ROWS):
        block = units[first : first + BLOCK_ROWS] @ unit_keys
        if queries is keys:
            block[np.arange(len(block)), first + np.arange(len(block))] = -np.inf
        top = np.sort(np.argpartition(-block, count - 1, axis=1)[:, :count], axis=1)
        values = np.take_along_axis(block, top, axis=1)
        order = np.argsort(-values, axis=1, kind="stable")
        rows.append(np.take_along_axis(top, order, axis=1))
        cosines.append(np.take_along_axis(values, order, axis=1))
    return Neighbours(np.concatenate(rows), np.concatenate(cosines))


def clusters(embedding: np.ndarray, *, seed: int) -> np.ndarray:
    """k-means clusters of the unit vectors of `embedding` [n, D], int64 [n]; cluster 0 is the largest.

    There are MOST_CLUSTERS or, with fewer than 200 rows, the square root of half the rows, a common rule of thumb.
    """
    count = int(min(MOST_CLUSTERS, max(2, np.sqrt(len(embedding) / 2))))
    found = KMeans(count, n_init=4, random_state=seed).fit_predict(unit_rows(embedding))
    by_size = np.argsort(-np.bincount(found, minlength=count), kind="stable")
    return np.argsort(by_size)[found]
