"""Ring buffers of keys with the ids of their clips: the pool of candidates and the dictionary of negatives."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class KeyRing(nn.Module):
    """Holds the newest `size` rows written; a clip is held once, by its newest key.

    Buffers: keys [size, D] float32; ids [size] int64, -1 = empty; write_index [size] int64, the number of rows written
    before this one, -1 = empty; partners [size, D] float32, the clips' keys of the other modality, if asked for.
    `written` counts all rows written; `cursor` is the row that the next write starts at. `state_dict` holds all of
    them.
    """

    keys: Tensor
    ids: Tensor
    write_index: Tensor
    partners: Tensor | None

    def __init__(self, *, size: int, dim: int, partners: bool = False) -> None:
        super().__init__()
        self.register_buffer("partners", torch.zeros(size, dim) if partners else None)
        self.register_buffer("keys", torch.zeros(size, dim))
        self.register_buffer("ids", torch.full((size,), -1, dtype=torch.int64))
        self.register_buffer("write_index", torch.full((size,), -1, dtype=torch.int64))
        self.written = 0
        self.cursor = 0
        self.register_load_state_dict_pre_hook(_rename_stamps)

    def __len__(self) -> int:
        return len(self.ids)

    def write(self, keys: Tensor, ids: Tensor, partners: Tensor | None = None) -> None:
        """Writes n rows over the oldest ones, wrapping around.

        If n > size, only the newest `size` rows are written. Older rows of the same ids are evicted.

        Args:
            keys: [n, D].
            ids: [n] int64, all different.
            partners: [n, D]; needed if the ring holds them.
        """
        keys, ids = keys.detach()[-len(self) :], ids.to(self.ids.device)[-len(self) :]
        self.evict(torch.isin(self.ids, ids))
        steps = torch.arange(len(ids), device=self.ids.device)
        rows = (self.cursor + steps) % len(self)
        self.keys[rows] = keys.to(self.keys)
        if self.partners is not None:
            assert partners is not None
            self.partners[rows] = partners.detach()[-len(self) :].to(self.partners)
        self.ids[rows] = ids
        self.write_index[rows] = self.written + steps
        self.written += len(ids)
        self.cursor = (self.cursor + len(ids)) % len(self)

    def evict(self, rows: Tensor) -> None:
        """Empties rows, given as a mask ([size] bool) or as row numbers (int64)."""
        self.ids[rows] = -1
        self.write_index[rows] = -1

    def next_overwritten(self, n: int) -> Tensor:
        """Returns the numbers of the rows that the next write of n rows overwrites, int64 [min(n, size)]."""
        return (self.cursor + torch.arange(min(n, len(self)), device=self.ids.device)) % len(self)

    def get_extra_state(self) -> Tensor:
        return torch.tensor([self.written, self.cursor])

    def set_extra_state(self, state: Tensor) -> None:
        self.written, self.cursor = (int(value) for value in state)


def _rename_stamps(ring: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Reads checkpoints in which write_index still has its old name, stamps."""
    if (old := f"{prefix}stamps") in state:
        state[f"{prefix}write_index"] = state.pop(old)


class Pool(KeyRing):
    """The candidates of one modality: N keys that the sampler may put into the dictionary."""

    def add(self, keys: Tensor, ids: Tensor) -> None:
        """Writes n new keys over the oldest (pool.source=stream). keys [n, D], ids [n] int64, all different."""
        self.write(keys, ids)

    def replace(self, keys: Tensor, ids: Tensor) -> None:
        """Empties the pool and fills it with n <= N keys of random clips. keys [n, D], ids [n] int64, all different."""
        self.evict(self.ids >= 0)
        self.cursor = 0
        self.write(keys, ids)


class Dictionary(KeyRing):
    """The negatives of one modality: a first-in, first-out queue of K keys.

    A row whose id is -1 is still empty and must be masked in the loss.
    """

    def enqueue(self, keys: Tensor, ids: Tensor, partners: Tensor | None = None) -> None:
        """Writes n keys over the n oldest; a clip that is already held keeps only its new key. See `write`."""
        self.write(keys, ids, partners)

    def retained(self, n: int) -> Tensor:
        """Returns which rows hold a key and survive the next enqueue of n keys, [K] bool."""
        retained = self.ids >= 0
        retained[self.next_overwritten(n)] = False
        return retained
