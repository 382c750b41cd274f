"""The candidates of one modality: keys that the sampler may put into the dictionary."""

from __future__ import annotations

from torch import Tensor

from sampler.key_ring import KeyRing


class Pool(KeyRing):
    """N keys, either drawn anew at times (`replace`) or a stream of the most recent ones (`add`)."""

    def add(self, keys: Tensor, ids: Tensor) -> None:
        """Takes n new keys in place of the oldest (source stream). keys [n, D], ids [n] int64, all different."""
        self.write(keys, ids)

    def replace(self, keys: Tensor, ids: Tensor) -> None:
        """Empties the pool and fills it with n <= N keys. keys [n, D], ids [n] int64, all different."""
        self.forget(self.ids >= 0)
        self.cursor = 0
        self.write(keys, ids)
