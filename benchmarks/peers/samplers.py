"""Published algorithms that choose k diverse rows, behind the samplers' interface.

Each follows its published description or calls a library that implements it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import faiss
import numpy as np
import torch
from scipy import stats
from sklearn.cluster import kmeans_plusplus
from torch import Tensor

from sampler.base import Candidates, Selection
from sampler.d2.dense_bounds import DenseBounds
from sampler.d2.distance import squared_distances, squared_norms
from sampler.d2.distribution import draw_rows
from sampler.d2.sketch import tensor_sketch
from sampler.fallbacks import make_selection

_SKETCH_DIM = 256


@dataclass(kw_only=True)
class Baseline:
    """Adapts a function (candidates, k, seed) -> row numbers; it receives the candidates on the CPU."""

    pick: Callable[[Candidates, int, int], np.ndarray | Tensor]

    def select(
        self, candidates: Candidates, k: int, *, generator: torch.Generator, dictionary: Candidates | None = None
    ) -> Selection:
        seed = int(torch.randint(2**31, (1,), generator=generator))
        columns = {name: None if column is None else column.cpu() for name, column in vars(candidates).items()}
        picks = torch.as_tensor(self.pick(Candidates(**columns), k, seed), dtype=torch.int64).to(candidates.a.device)
        return make_selection(picks, None, k, invalid=0, distinct=len(picks.unique()))


def badge(candidates: Candidates, k: int, seed: int) -> np.ndarray:
    """BADGE's published seeding (Ash et al., 2020): largest norm first, then D² draws through scipy, one pass per pick.

    As published, minima and sums are computed element by element in Python. To BADGE's advantage, distances between
    full gradient embeddings (D·H numbers per row, 10 GB at the paper's sizes) are computed from the factors here.
    """
    return _badge(candidates, k, seed, nearer=_minimum_by_element, total=sum)


def badge_vectorised(candidates: Candidates, k: int, seed: int) -> np.ndarray:
    """The same as `badge`, with vectorised minima and sums."""
    return _badge(candidates, k, seed, nearer=np.minimum, total=np.sum)


def _badge(
    candidates: Candidates,
    k: int,
    seed: int,
    *,
    nearer: Callable[[np.ndarray, np.ndarray], np.ndarray],
    total: Callable[[np.ndarray], float],
) -> np.ndarray:
    random = np.random.RandomState(seed)
    a, b = candidates.a.numpy(), candidates.b.numpy()
    norms = (a**2).sum(1) * (b**2).sum(1)
    picks, distance = [int(norms.argmax())], None
    while len(picks) < k:
        last = picks[-1]
        squared = norms + norms[last] - 2 * (a @ a[last]) * (b @ b[last])
        to_last = np.sqrt(np.clip(squared, 0, None)).astype(np.float64)
        distance = to_last if distance is None else nearer(distance, to_last)
        weight = distance**2
        distribution = stats.rv_discrete(values=(np.arange(len(weight)), weight / total(weight)))
        pick = int(distribution.rvs(random_state=random))
        while pick in picks:
            pick = int(distribution.rvs(random_state=random))
        picks.append(pick)
    return np.array(picks)


def _minimum_by_element(distance: np.ndarray, to_last: np.ndarray) -> np.ndarray:
    for row in range(len(distance)):
        if distance[row] > to_last[row]:
            distance[row] = to_last[row]
    return distance


def sklearn_kmeans_plusplus(candidates: Candidates, k: int, seed: int) -> np.ndarray:
    """scikit-learn's kmeans_plusplus (greedy, 2 + ln k trials) on a 256-dimensional sketch of the gradients."""
    sketch = tensor_sketch(candidates, _SKETCH_DIM).numpy()
    return kmeans_plusplus(sketch, k, random_state=seed)[1]


def faiss_init(method: int) -> Callable[[Candidates, int, int], np.ndarray]:
    """One of FAISS's centroid initialisations on a 256-dimensional sketch; a search maps its centroids to rows."""

    def pick(candidates: Candidates, k: int, seed: int) -> np.ndarray:
        sketch = np.ascontiguousarray(tensor_sketch(candidates, _SKETCH_DIM).numpy())
        parameters = faiss.ClusteringParameters()
        parameters.seed, parameters.niter, parameters.init_method = seed, 0, method
        parameters.max_points_per_centroid, parameters.min_points_per_centroid = len(sketch), 1
        clustering = faiss.Clustering(sketch.shape[1], k, parameters)
        clustering.train(sketch, faiss.IndexFlatL2(sketch.shape[1]))
        centroids = faiss.vector_to_array(clustering.centroids).reshape(k, -1)
        rows = faiss.IndexFlatL2(sketch.shape[1])
        rows.add(sketch)
        return rows.search(centroids, 1)[1][:, 0]

    return pick


def kmeans_parallel(candidates: Candidates, k: int, seed: int) -> Tensor:
    """k-means‖ (Bahmani et al., 2012): 5 rounds of about 2k rows, reduced to k by weighted D² sampling."""
    generator = torch.Generator().manual_seed(seed)
    norms, bounds = squared_norms(candidates), DenseBounds(candidates, squared_norms(candidates))
    d2 = torch.full_like(norms, torch.inf)
    picks = new = torch.randint(len(norms), (1,), generator=generator)
    for _ in range(5):
        for block in new.split(512):
            bounds.lower(d2, candidates.rows(block), norms[block])
        new = (torch.rand(len(d2), generator=generator) < 2 * k * d2 / d2.sum()).nonzero().squeeze(1)
        picks = torch.cat([picks, new]).unique()
    wide = candidates.rows(picks)
    nearest = torch.cat(
        [
            squared_distances(candidates.rows(rows), norms[rows], wide, norms[picks]).argmin(1)
            for rows in torch.arange(len(norms)).split(2048)
        ]
    )
    weight = torch.bincount(nearest, minlength=len(picks)).float()
    kept, d2 = [], None
    for _ in range(min(k, len(picks))):
        mass = weight if d2 is None else weight * d2
        pick = draw_rows(mass, torch.rand(1, dtype=torch.float64, generator=generator))
        to_pick = squared_distances(wide, norms[picks], wide.rows(pick), norms[picks[pick]]).squeeze(1).clamp_(min=0)
        d2 = to_pick if d2 is None else torch.minimum(d2, to_pick)
        d2[pick] = 0
        kept.append(pick)
    return picks[torch.cat(kept)]


def facility_location(candidates: Candidates, k: int, seed: int) -> np.ndarray:
    """apricot's greedy facility location on the sketch. It needs requirements-bench.txt and is quadratic in N."""
    from apricot import FacilityLocationSelection

    sketch = tensor_sketch(candidates, _SKETCH_DIM).numpy().astype(np.float64)
    return FacilityLocationSelection(k, metric="euclidean", random_state=seed).fit(sketch).ranking


def triple_loop(candidates: Candidates, k: int, seed: int) -> np.ndarray:
    """The seeding of the paper's published code: it loops over picks, rows and centres and draws ∝ D, not D²."""
    random = np.random.RandomState(seed)
    embeddings = torch.einsum("nd,nh->ndh", candidates.a, candidates.b).flatten(1).numpy()
    picks = [random.randint(len(embeddings))]
    while len(picks) < k:
        distances = []
        for row in embeddings:
            nearest = np.inf
            for centre in picks:
                nearest = min(nearest, np.linalg.norm(row - embeddings[centre]))
            distances.append(nearest)
        weight = np.array(distances, dtype=np.float64)
        picks.append(int(random.choice(len(weight), p=weight / weight.sum())))
    return np.array(picks)


BASELINES = {
    "badge": badge,
    "badge_vectorised": badge_vectorised,
    "sklearn": sklearn_kmeans_plusplus,
    "faiss_kmeanspp": faiss_init(faiss.ClusteringInitMethod_KMEANS_PLUS_PLUS),
    "faiss_afkmc2": faiss_init(faiss.ClusteringInitMethod_AFK_MC2),
    "kmeans_parallel": kmeans_parallel,
    "facility_location": facility_location,
    "triple_loop": triple_loop,
}
"""Name -> function. facility_location and triple_loop are only practical at small sizes."""
