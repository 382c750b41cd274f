"""Which candidates must not be picked, decided once, before any sampler runs.

A clip of the batch among the negatives is a positive treated as a negative; a clip twice in the dictionary counts
double. Both are found by sample id.
"""

from __future__ import annotations

import torch
from torch import Tensor


def allowed_rows(ids: Tensor, *excluded: Tensor) -> Tensor:
    """[N] bool: rows that hold a clip (id >= 0) that is in none of the excluded id lists (int64, any length)."""
    return (ids >= 0) & ~torch.isin(ids, torch.cat(excluded))
