"""Creates the loader that the configuration selects."""

from __future__ import annotations

from typing import Any

import torch

from pipeline.load.clip_loader import ClipLoader
from pipeline.load.dali_loader import DaliLoader
from pipeline.load.reference.decord_loader import DecordLoader
from pipeline.load.reference.raw_dataset import RawDataset
from pipeline.shards.manifest import Manifest
from pipeline.shards.mix import MixedManifest
from settings import Config
from settings.load import pick

LOADERS: dict[str, type[DaliLoader] | type[DecordLoader]] = {"dali": DaliLoader, "decord": DecordLoader}
"""Maps data.loader to the class of the loader."""


def open_dataset(config: Config) -> Manifest | MixedManifest | RawDataset:
    """Opens the data set that `make_loader` reads.

    Raises:
        ConfigError: the loader is unknown, or (decord) data.path holds no usable video.
        ManifestError: (dali) data.path holds no complete prepared data set.
    """
    return pick(LOADERS, config.data.loader, "data.loader").open_dataset(config)


def make_loader(
    config: Config,
    *,
    device: str | torch.device = "cpu",
    rank: int = 0,
    world_size: int = 1,
    batch_size: int | None = None,
    dataset: Any = None,
) -> ClipLoader:
    """Returns the loader that config.data.loader names.

    ```python
    loader = make_loader(config)
    len(loader)  # steps per epoch
    for batch in loader.epoch(3, start_step=10): ...  # training clips, this rank's slice of each batch
    for batch in loader.steps(10, 5000): ...  # the same across epochs, without a pause between them
    for batch in loader.clips(ids, epoch=3, purpose="pool"): ...  # training clips of any samples
    for batch in loader.uniform_clips(ids, clips=3): ...  # test clips
    for batch in loader.carry_out(plan): ...  # the clips of a plan
    ```

    A sample's tensors are a function of (seed, epoch, id, purpose): they depend neither on batch size nor on world
    size nor on earlier batches. An iterator that starts at step n yields the same batches as one that has advanced to
    step n. An iterator may be abandoned at any point, and several may be interleaved.

    Args:
        config: data, clip, audio, augment, seed and train.batch_size are read.
        device: device of the video and audio tensors.
        rank, world_size: rank of this process, and number of processes that share the global batch.
        batch_size: clips per global batch; None means train.batch_size.
        dataset: what `open_dataset` returned; None opens it.

    Raises:
        ConfigError: the loader is unknown, or settings contradict each other or the data.
        ManifestError: (dali) data.path holds no complete prepared data set.
    """
    return pick(LOADERS, config.data.loader, "data.loader")(
        config=config, device=device, rank=rank, world_size=world_size, batch_size=batch_size, dataset=dataset
    )
