"""A ring of keys with the ids of their clips: the storage of pool and dictionary."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class KeyRing(nn.Module):
    """Holds the newest `size` rows written; a clip is held once, by its newest key.

    Buffers: keys [size, D] float32; ids [size] int64, -1 = empty; write_index [size] int64, how many rows were written
    before this one, -1 = empty. All of it, and the position, is in `state_dict`.
    """

    keys: Tensor
    ids: Tensor
    write_index: Tensor

    def __init__(self, *, size: int, dim: int) -> None:
        super().__init__()
        self.register_buffer("keys", torch.zeros(size, dim))
        self.register_buffer("ids", torch.full((size,), -1, dtype=torch.int64))
        self.register_buffer("write_index", torch.full((size,), -1, dtype=torch.int64))
        self.written = 0
        self.cursor = 0

    def __len__(self) -> int:
        return len(self.ids)

    def write(self, keys: Tensor, ids: Tensor) -> None:
        """Writes n rows over the oldest ones, wrapping around.

        Rows beyond the newest `size`, and older rows of the same ids, are dropped.

        Args:
            keys: [n, D].
            ids: [n] int64, all different.
        """
        keys, ids = keys.detach()[-len(self) :], ids.to(self.ids.device)[-len(self) :]
        self.forget(torch.isin(self.ids, ids))
        steps = torch.arange(len(ids), device=self.ids.device)
        rows = (self.cursor + steps) % len(self)
        self.keys[rows] = keys.to(self.keys)
        self.ids[rows] = ids
        self.write_index[rows] = self.written + steps
        self.written += len(ids)
        self.cursor = (self.cursor + len(ids)) % len(self)

    def forget(self, rows: Tensor) -> None:
        """Empties rows ([size] bool or int64 row numbers)."""
        self.ids[rows] = -1
        self.write_index[rows] = -1

    def next_overwritten(self, n: int) -> Tensor:
        """Row numbers that the next write of n rows overwrites, int64 [min(n, size)]."""
        return (self.cursor + torch.arange(min(n, len(self)), device=self.ids.device)) % len(self)

    def _load_from_state_dict(self, state: dict[str, Any], prefix: str, *arguments: Any) -> None:
        # The name that checkpoints of version 0.1 give it.
        if (old := f"{prefix}stamps") in state:
            state[f"{prefix}write_index"] = state.pop(old)
        super()._load_from_state_dict(state, prefix, *arguments)

    def get_extra_state(self) -> Tensor:
        return torch.tensor([self.written, self.cursor])

    def set_extra_state(self, state: Tensor) -> None:
        self.written, self.cursor = (int(value) for value in state)
