"""The negatives of one modality: a queue of K keys."""

from __future__ import annotations

from torch import Tensor

from sampler.key_ring import KeyRing


class Dictionary(KeyRing):
    """First in, first out. A row whose id is -1 is still empty and must be masked in the loss."""

    def enqueue(self, keys: Tensor, ids: Tensor) -> None:
        """Puts n keys in, in place of the n oldest; a clip that is already held keeps only its new key.

        Args:
            keys: [n, D].
            ids: [n] int64, all different.
        """
        self.write(keys, ids)

    def staying(self, n: int) -> Tensor:
        """Rows that hold a key and that an enqueue of n keys would leave in, [K] bool."""
        staying = self.ids >= 0
        staying[self.next_overwritten(n)] = False
        return staying
