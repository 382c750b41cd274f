"""The order of samples: which ones a step trains on, as a pure function of (seed, epoch, step).

Both orders are permutations of the data set's ids. The global batch of a step is a slice of the permutation and a
rank's share is a contiguous slice of the global batch, so neither the world size nor an interruption of the run
changes which samples share a batch.
"""

from __future__ import annotations

import numpy as np

from common.randomness import numpy_generator
from settings.errors import ConfigError


def global_order(n: int, *, seed: int, epoch: int, purpose: str = "order") -> np.ndarray:
    """Draws a uniformly random permutation of range(n), int64 [n]."""
    return numpy_generator(seed, epoch, purpose).permutation(n)


def shard_order(shards: np.ndarray, *, window: int, seed: int, epoch: int, purpose: str = "order") -> np.ndarray:
    """Returns a permutation that visits one shard after another, shuffled within `window` samples; int64 [n].

    The shards come in random order and each sample is displaced by fewer than `window` positions, as by a shuffle
    buffer of that size. Only a few shards are read at a time, which suits network disks, but batches are less random.

    Args:
        shards: int [n], the shard of each sample.
        window: limit of the displacement, in samples; 1 keeps the order within a shard.
    """
    rng = numpy_generator(seed, epoch, purpose)
    rank_of_shard = rng.permutation(int(shards.max(initial=-1)) + 1)
    by_shard = np.argsort(rank_of_shard[shards], kind="stable")
    displaced = np.arange(len(shards)) + rng.random(len(shards)) * window
    return by_shard[np.argsort(displaced, kind="stable")]


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
