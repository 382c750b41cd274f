"""The D² distribution: its initial state, with or without a dictionary, and drawing rows from it."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from sampler.base import Candidates
from sampler.d2.distance import floor_to_zero, squared_distances, squared_norms

FirstPick = Literal["uniform", "norm", "argmax"]
"""The distribution of the first pick: uniform (k-means++), norm (proportional to |g|²) or argmax (always the largest
|g|, as in BADGE's code)."""

_DICTIONARY_CHUNK = 256
"""Number of dictionary rows that the candidates are compared with at a time."""
_SEGMENT = 2048
"""Number of weights in a segment of `draw_rows`."""


def starting_distances(norms: Tensor, usable: Tensor) -> Tensor:
    """Returns D² before anything is chosen, [N]: inf for usable rows, 0 for the others, which are never drawn."""
    return torch.zeros_like(norms).masked_fill_(usable, torch.inf)


def first_weight(first_pick: FirstPick, norms: Tensor, usable: Tensor) -> Tensor:
    """Returns the weights of the first pick, [N] float32. `norm` falls back to uniform if all norms are 0."""
    if first_pick == "norm":
        weight = torch.where(usable, norms, 0.0)
        return torch.where(weight.sum() > 0, weight, usable.to(norms))
    if first_pick == "argmax":
        largest = torch.where(usable, norms, -1.0).argmax()
        return torch.zeros_like(norms).index_fill_(0, largest, 1.0) * usable
    return usable.to(norms)


def dictionary_rows(dictionary: Candidates | None) -> Candidates | None:
    """Returns the valid and finite rows of the dictionary, or None if there are none."""
    if dictionary is None:
        return None
    rows = (dictionary.valid & torch.isfinite(squared_norms(dictionary))).nonzero().squeeze(1)
    return dictionary.rows(rows) if len(rows) else None


def condition(d2: Tensor, candidates: Candidates, norms: Tensor, dictionary: Candidates | None) -> Tensor:
    """Returns D² with the dictionary's valid and finite rows counted as chosen, [N]."""
    held = dictionary_rows(dictionary)
    if held is None:
        return d2
    held_norms = squared_norms(held)
    for start in range(0, len(held), _DICTIONARY_CHUNK):
        chunk = slice(start, start + _DICTIONARY_CHUNK)
        distances = squared_distances(candidates, norms, held.rows(chunk), held_norms[chunk])
        # fmin, because rows that are not finite start at 0 and must stay there.
        d2 = torch.fmin(d2, distances.amin(1))
    return floor_to_zero(d2, norms)


def draw_rows(weight: Tensor, uniforms: Tensor) -> Tensor:
    """Draws rows with probability proportional to weight, by inversion; rows of weight 0 are never drawn.

    Weights are summed within segments of `_SEGMENT` and then over the segments: a GPU's scan of one long vector
    of floats is not deterministic, and all ranks must draw the same rows. There is no synchronisation with the host.

    Args:
        weight: [N], at least 0. If all are 0, the rows drawn are arbitrary.
        uniforms: [n] float64 in [0, 1).

    Returns:
        [n] int64 row numbers.
    """
    padded = torch.nn.functional.pad(weight, (0, -len(weight) % _SEGMENT)).view(-1, _SEGMENT)
    # float64: at a million rows float32 would leave almost half of them an interval of width 0.
    within = padded.cumsum(1, dtype=torch.float64)
    sums = within[:, -1]
    ends = sums.cumsum(0)
    # Just below the total, so that rounding cannot reach past the last row of positive weight; also in a segment.
    targets = uniforms * (ends[-1] * (1 - 1e-12))
    segment = torch.searchsorted(ends, targets, right=True).clamp_(max=len(sums) - 1)
    inside = torch.minimum(targets - (ends[segment] - sums[segment]), sums[segment] * (1 - 1e-12))
    return (segment * _SEGMENT + _search(within, segment, inside)).clamp_(max=len(weight) - 1)


def _search(ascending: Tensor, row: Tensor, values: Tensor) -> Tensor:
    """Returns, for each value, how many entries of its row are at most the value, [n] int64.

    Args:
        ascending: [R, C] with C a power of 2, ascending within rows.
        row: [n] int64, the row of each value.
        values: [n].
    """
    if values.is_cuda:  # one kernel; on a CPU, copying the rows would take longer than everything else
        return torch.searchsorted(ascending[row], values[:, None], right=True).squeeze(1)
    flat, start = ascending.view(-1), row * ascending.shape[1]
    place, step = torch.zeros_like(row), ascending.shape[1]
    while step > 1:
        step //= 2
        place += step * (flat[start + place + step - 1] <= values)
    return place + (flat[start + place] <= values)
