"""Which clips fill the pool at the start of an epoch, and which classes the samples have."""

from __future__ import annotations

import numpy as np

from pipeline.load.clip_loader import Dataset
from pipeline.plan.order import global_order
from pipeline.plan.selection import Selection
from settings import Config
from training.distributed import World


def pool_ids(config: Config, ids: Selection | np.ndarray, epoch: int, world: World) -> np.ndarray:
    """Returns this rank's share of the samples whose clips fill the pool, clip.per_sample of each.

    The samples are drawn without replacement and split among the ranks as training batches are.

    Args:
        ids: the samples to draw from, int64 [n] if as an array.
        world: this process and its group; all ranks together get complete global batches, as many as the pool needs.

    Returns:
        int64 [samples of this rank] sample ids.
    """
    batch, stream = config.train.batch_size, config.pool_in_use.source == "stream"
    # A stream pool needs only enough to fill the dictionary and leave as many eligible candidates in the first step.
    needed = 2 * config.dictionary.size + batch if stream else config.pool.size
    batches = min(-(-needed // batch), config.pool.size // batch, len(ids) * config.clip.per_sample // batch)
    size = batch // config.clip.per_sample  # in samples
    chosen = ids[global_order(len(ids), seed=config.seed, epoch=epoch, purpose="pool", last=batches * size)]
    return chosen.reshape(-1, world.size, size // world.size)[:, world.rank].reshape(-1)


def known_labels(config: Config, dataset: Dataset) -> np.ndarray | None:
    """Returns each sample's class in the column `monitor.label`, [n], or None if the data has no such column."""
    if config.monitor.label not in dataset.label_columns:
        return None
    return np.asarray(dataset.labels(config.monitor.label))
