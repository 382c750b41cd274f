"""Which clips fill the pool, which of a super-batch are trained on, and which classes the samples have."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

from common.randomness import torch_generator
from pipeline.batch import Batch
from pipeline.load.sets import Dataset
from pipeline.plan.mixture import Mixture
from pipeline.plan.order import global_order
from pipeline.plan.selection import Selection
from settings import Config
from settings.errors import require
from training.distributed import World, gather_rows


def pool_ids(
    config: Config, ids: Selection | np.ndarray, epoch: int, world: World, *, mixture: Mixture | None = None
) -> np.ndarray:
    """Returns this rank's share of the samples whose clips fill the pool, clip.per_sample of each.

    The samples are drawn without replacement and split among the ranks as training batches are.

    Args:
        ids: the samples to draw from, int64 [n] if as an array.
        mixture: the shares of the data sets, if there are several or samples have weights; they are kept as far as
            different samples last.
        world: this process and its group; all ranks together get complete global batches, as many as the pool needs.

    Returns:
        int64 [samples of this rank] sample ids.
    """
    batch, stream = config.train.batch_size, config.pool_in_use.source == "stream"
    # A stream pool needs only enough to fill the dictionary and leave as many eligible candidates in the first step.
    needed = 2 * config.dictionary.size + batch if stream else config.pool.size
    batches = min(-(-needed // batch), config.pool.size // batch, len(ids) * config.clip.per_sample // batch)
    size = batch // config.clip.per_sample  # in samples
    if mixture is None:
        chosen = ids[global_order(len(ids), seed=config.seed, epoch=epoch, purpose="pool", last=batches * size)]
    else:
        chosen = mixture.distinct(batches * size, epoch=epoch, purpose="pool")
        chosen = chosen[: len(chosen) // size * size]
    return chosen.reshape(-1, world.size, size // world.size)[:, world.rank].reshape(-1)


def known_labels(config: Config, dataset: Dataset) -> np.ndarray | None:
    """Returns each sample's class in the column `monitor.label`, [n], or None if the data has no such column."""
    if config.monitor.label not in dataset.label_columns:
        return None
    return np.asarray(dataset.labels(config.monitor.label))


class Chosen(NamedTuple):
    """The clips of a super-batch that a step trains on."""

    batch: Batch
    """The chosen ones of this rank's clips."""
    keys: dict[str, torch.Tensor]
    """Their momentum keys by modality, [b, D]."""
    ids: torch.Tensor
    """Their clip ids, int64 [b]."""
    newest: tuple[dict[str, torch.Tensor], torch.Tensor]
    """Keys and ids of all clips of all ranks, chosen or not."""


def choose_clips(
    batch: Batch, keys: dict[str, torch.Tensor], ids: torch.Tensor, *, config: Config, world: World, step: int
) -> Chosen:
    """Chooses the clips that a step trains on from each rank's share of a super-batch; see `choose_spread`.

    Args:
        keys: momentum keys of this rank's clips by modality, [B, D].
        ids: int64 [B] clip ids.

    Raises:
        ConfigError: train.super_batch does not divide the rank's share.
    """
    block = config.train.super_batch
    require(
        len(ids) % block == 0,
        f"train.super_batch={block} must divide each process's share of train.batch_size={config.train.batch_size}, "
        f"which is {len(ids)} clips on {world.size} process(es)",
    )
    gathered, all_ids = gather_rows(list(keys.values()), ids)
    rows = choose_spread(torch.cat(gathered, dim=1), block=block, seed=config.seed, step=step)
    count = len(ids) // block
    rows = rows[world.rank * count : (world.rank + 1) * count] - world.rank * len(ids)
    assert batch.video is not None
    assert batch.audio is not None
    here = rows.cpu()  # the batch's ids are on the CPU
    chosen = Batch(batch.video[rows], batch.audio[rows], batch.ids[here], batch.start[here])
    newest = dict(zip(keys, gathered, strict=True)), all_ids
    return Chosen(chosen, {m: key[rows] for m, key in keys.items()}, ids[rows], newest)


@torch.no_grad()
def choose_spread(keys: torch.Tensor, *, block: int, seed: int, step: int) -> torch.Tensor:
    """Chooses one of every `block` consecutive clips by D² sampling on momentum keys.

    This is joint example selection (Evans et al. 2024, arXiv 2406.17711) without their reference model: in place of
    losses, the distances between keys decide, which the pool needs anyway.

    A clip is drawn with a probability proportional to its squared distance to the nearest clip chosen in earlier
    blocks. As every block gives one clip, processes that hold whole blocks train on equally many, and the choice does
    not depend on how many processes there are.

    Args:
        keys: [n, D] keys of the global batch, on every process the same; n is a multiple of `block`.
        seed, step: of the run; they determine the draws.

    Returns:
        int64 [n / block] row numbers, ascending. A block without any distance left, or with keys that are not finite,
        gives its first clip.
    """
    blocks = keys.float().reshape(-1, block, keys.shape[1])
    draws = torch.rand(len(blocks), generator=torch_generator(f"{seed}/super batch/{step}"), dtype=torch.float64)
    draws = draws.to(keys.device)
    nearest = torch.ones(blocks.shape[:2], dtype=torch.float64, device=keys.device)
    chosen = []
    for number in range(len(blocks)):
        reached = nearest[number].cumsum(0)
        pick = (reached <= draws[number] * reached[-1]).sum().clamp(max=block - 1)
        pick = torch.where(reached[-1] > 0, pick, 0).reshape(1)
        distances = (blocks - blocks[number].index_select(0, pick)).square().sum(2).double()
        nearest = distances if number == 0 else torch.minimum(nearest, distances)
        chosen.append(number * block + pick)
    return torch.cat(chosen)
