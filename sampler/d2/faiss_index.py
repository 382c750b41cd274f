"""A partition of the pool into the cells of a FAISS quantiser, kept up to date as the pool changes.

FAISS provides only the quantiser: no GPU index of FAISS can remove rows, and its metrics cannot express the product of
two factors (sampler/d2/distance.py), so distances and inverted lists are computed here.
"""

from __future__ import annotations

import functools

import faiss
import numpy as np
import torch
from torch import Tensor

_ITERATIONS = 5
"""Number of Lloyd iterations (k-means) when the quantiser is trained."""
_TRAINING_ROWS_PER_CELL = 40
_RETRAIN_SHARE = 1.0
"""Number of rows written since the last training, as a share of the pool, beyond which the quantiser is retrained."""


class PersistentIndex:
    """The cell of every row of a pool; only rows whose write_index has changed are assigned again.

    `state_dict` holds only the quantiser, because the cells follow from it and the rows.
    """

    def __init__(self) -> None:
        self.centroids: Tensor | None = None
        self.changed = 0
        self._write_index = self._cells = torch.empty(0, dtype=torch.int64)

    def cells(self, embeddings: Tensor, write_index: Tensor, usable: Tensor, *, cells: int) -> Tensor:
        """Returns the cell of each row, [N] int64.

        Args:
            embeddings: [N, d] float32; rows that are not usable may hold anything.
            write_index: [N] int64; a row with the same write_index as before must have the same embedding.
            usable: [N] bool, the rows that the quantiser may be trained on.
            cells: number of cells of a quantiser that is trained in this call, at most the number of usable rows.
        """
        if len(write_index) != len(self._write_index):
            self._write_index = torch.full_like(write_index, -2)
            self._cells = torch.zeros_like(write_index)
        stale = (write_index != self._write_index).nonzero().squeeze(1)
        self.changed += len(stale) if self.centroids is not None else 0
        if self.centroids is None or self.changed > _RETRAIN_SHARE * len(write_index):
            self.centroids = train_quantiser(embeddings[usable], cells)
            self.changed = 0
            stale = torch.arange(len(write_index), device=write_index.device)
        if len(stale):
            rows = embeddings if len(stale) == len(embeddings) else embeddings[stale]
            self._cells[stale] = assign(rows, self.centroids)
            self._write_index = write_index.clone()
        return self._cells

    def state_dict(self) -> dict[str, Tensor]:
        if self.centroids is None:
            return {}
        return {"centroids": self.centroids, "changed": torch.tensor(self.changed)}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.centroids, self.changed = None, 0
        self._write_index = self._cells = torch.empty(0, dtype=torch.int64)
        if state:
            self.centroids, self.changed = state["centroids"].cpu(), int(state["changed"])


def train_quantiser(embeddings: Tensor, cells: int) -> Tensor:
    """Returns k-means centroids of a sample of the rows, [cells, d] float32 on the CPU; equal for equal rows."""
    wanted = min(len(embeddings), cells * _TRAINING_ROWS_PER_CELL)
    # Evenly spaced rows need no generator, so the sample does not depend on earlier draws.
    rows = torch.linspace(0, len(embeddings) - 1, wanted, dtype=torch.float64, device=embeddings.device).long()
    # FAISS ends the process if a centroid is not finite, so larger values must not reach it either.
    sample = np.ascontiguousarray(embeddings[rows].nan_to_num(0.0, 0.0, 0.0).clamp_(-1e15, 1e15).cpu().numpy())
    clustering = faiss.Kmeans(
        sample.shape[1], min(cells, len(sample)), niter=_ITERATIONS, seed=1234, min_points_per_centroid=1
    )
    # Kmeans' own gpu=True would use every GPU of the machine in each process, and take memory on all of them.
    clustering.index = _on_device_of(clustering.index, embeddings)
    clustering.train(sample)
    return torch.from_numpy(clustering.centroids)


def assign(embeddings: Tensor, centroids: Tensor) -> Tensor:
    """Returns the nearest centroid of each row, [N] int64; an arbitrary one for rows that are not finite."""
    cpu_index = faiss.IndexFlatL2(centroids.shape[1])
    cpu_index.add(centroids.numpy())
    index = _on_device_of(cpu_index, embeddings)
    if index is not cpu_index:
        from faiss.contrib import torch_utils  # noqa: F401, lets search accept tensors on the device

        return index.search(embeddings.contiguous(), 1)[1].squeeze(1).clamp_(min=0)
    rows = np.ascontiguousarray(embeddings.cpu().numpy())
    return torch.from_numpy(index.search(rows, 1)[1][:, 0]).clamp_(min=0).to(embeddings.device)


def _on_device_of(index: faiss.Index, embeddings: Tensor) -> faiss.Index:
    """Copies the index to the embeddings' GPU; returns it unchanged if they are on the CPU or FAISS finds no GPU."""
    if not embeddings.is_cuda or faiss.get_num_gpus() == 0:
        return index
    return faiss.index_cpu_to_gpu(_gpu_resources(), embeddings.device.index or 0, index)


@functools.cache
def _gpu_resources() -> faiss.StandardGpuResources:
    """Returns this process's GPU resources. Needs a GPU: without one, FAISS aborts the process."""
    resources = faiss.StandardGpuResources()
    resources.setTempMemory(256 << 20)
    return resources
