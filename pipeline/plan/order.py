"""The order of samples: which ones a step trains on, as a pure function of (seed, epoch, step).

Both orders are permutations of the data set's ids. The global batch of a step is a slice of the permutation and a
rank's share is a contiguous slice of the global batch, so neither the world size nor an interruption of the run
changes which samples share a batch.
"""

from __future__ import annotations

import numpy as np

from common.randomness import numpy_generator, random_key, uniforms
from pipeline.plan.permutation import TABLE, permuted
from pipeline.plan.selection import Selection
from settings.errors import ConfigError

VERSION = 2
"""Version of the orders. Version 1 had the same order, with data.order=global, of as many samples as a table holds."""


def keeps_order(version: object, *, samples: int, order: str) -> bool:
    """Whether samples are visited in the order of that `version`, with data.order=`order`."""
    return version == VERSION or (version == 1 and order == "global" and samples <= TABLE)


def global_order(
    n: int, *, seed: int, epoch: int, purpose: str = "order", first: int = 0, last: int | None = None
) -> np.ndarray:
    """Returns a part of a random permutation of range(n), int64 [last - first], without computing the rest of it.

    Args:
        seed, epoch, purpose: select the permutation.
        first, last: the part, counted in positions; None means n, and so does what is beyond.
    """
    stop = n if last is None else min(last, n)
    return permuted(np.arange(min(first, stop), stop), n, random_key(seed, epoch, purpose))


class ShardOrder:
    """Permutations that visit one shard after another, shuffled within a window.

    The shards come in random order and each sample is displaced by fewer than `window` positions, as by a shuffle
    buffer of that size. Only a few shards are read at a time, which suits network disks, but batches are less random.

    Args:
        samples: the n samples that are ordered.
        shards: int [samples of the data set], the shard of each sample.
        window: limit of the displacement, in samples; 1 keeps the order within a shard.
    """

    def __init__(self, samples: Selection, shards: np.ndarray, *, window: int) -> None:
        self._window = window
        sizes = np.zeros(0, dtype=np.int64)
        in_order, previous = True, -1
        for ids in samples.blocks():
            block = np.asarray(shards[ids])
            sizes = _added(sizes, np.bincount(block))
            in_order = in_order and bool((np.diff(block, prepend=previous) >= 0).all())
            previous = block[-1] if len(block) else previous
        self._sizes, self._starts = sizes, np.cumsum(sizes) - sizes
        # Preparation packs the samples into shards in the order of their rows, unless some were added later.
        self._by_shard = None if in_order else np.argsort(shards[np.asarray(samples)], kind="stable")

    def part(
        self, *, seed: int, epoch: int, purpose: str = "order", first: int = 0, last: int | None = None
    ) -> np.ndarray:
        """Returns a part of the permutation of an epoch as places of `samples`, int64; arguments as `global_order`."""
        n = int(self._sizes.sum())
        stop = n if last is None else min(last, n)
        first = min(first, stop)
        visited = numpy_generator(seed, epoch, purpose).permutation(len(self._sizes))
        ends = np.cumsum(self._sizes[visited])
        # What is further away than the window cannot be displaced into this part, nor out of what lies before it.
        before = np.arange(max(first - self._window, 0), min(stop + self._window, n))
        visit = np.searchsorted(ends, before, side="right")
        place = self._starts[visited[visit]] + before - (ends - self._sizes[visited])[visit]
        moved = uniforms(before, 1, seed=seed, epoch=epoch, purpose=f"{purpose}/displacement")[:, 0] * self._window
        chosen = place[np.argsort(before + moved, kind="stable")][first - (before[0] if len(before) else 0) :]
        chosen = chosen[: stop - first]
        return chosen if self._by_shard is None else self._by_shard[chosen]


def _added(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Adds counts of which the shorter array lacks the last."""
    longer, shorter = (a, b) if len(a) >= len(b) else (b, a)
    longer = longer.astype(np.int64)
    longer[: len(shorter)] += shorter
    return longer


def steps_per_epoch(samples: int, batch_size: int, *, per_sample: int = 1) -> int:
    """Returns the number of complete global batches per epoch; the rest of the permutation is dropped.

    Args:
        samples: number of samples.
        batch_size: number of clips per batch.
        per_sample: number of clips of each sample in a batch.

    Raises:
        ConfigError: the data set is smaller than one batch.
    """
    if samples * per_sample < batch_size:
        each = f" with clip.per_sample={per_sample} clips each" if per_sample > 1 else ""
        raise ConfigError(
            f"train.batch_size={batch_size} is larger than the data set, which has {samples} samples{each}: "
            "lower train.batch_size, or check data.path, data.split and data.leave_out"
        )
    return samples * per_sample // batch_size


def rank_slice(batch_size: int, *, rank: int, world_size: int, per_sample: int = 1) -> slice:
    """Returns the contiguous part of a global batch, counted in clips, that belongs to `rank`.

    All clips of a sample belong to the same rank.

    Args:
        batch_size: number of clips per batch.
        per_sample: number of clips of each sample in a batch.

    Raises:
        ConfigError: batch_size is not a multiple of world_size * per_sample, or `rank` is out of range.
    """
    if not 0 <= rank < world_size:
        raise ConfigError(f"rank must be in [0, {world_size}), not {rank}")
    if batch_size % world_size:
        raise ConfigError(
            f"train.batch_size={batch_size} must be a multiple of the number of processes, which is {world_size}"
        )
    if batch_size % (world_size * per_sample):
        raise ConfigError(
            f"train.batch_size={batch_size} must be a multiple of clip.per_sample={per_sample} times the number of "
            f"processes, which is {world_size}: all clips of a sample are on one process"
        )
    local = batch_size // world_size
    return slice(rank * local, (rank + 1) * local)
