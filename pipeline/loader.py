"""The one way to make a loader."""

from __future__ import annotations

import torch

from pipeline.load.clip_loader import ClipLoader
from pipeline.load.dali_loader import DaliLoader
from pipeline.load.reference.decord_loader import DecordLoader
from settings import Config
from settings.load import pick

LOADERS: dict[str, type[DaliLoader] | type[DecordLoader]] = {"dali": DaliLoader, "decord": DecordLoader}
"""data.loader -> loader."""


def make_loader(
    config: Config,
    *,
    device: str | torch.device = "cpu",
    rank: int = 0,
    world_size: int = 1,
    batch_size: int | None = None,
) -> ClipLoader:
    """The loader that config.data.loader names.

    ```python
    loader = make_loader(config)
    len(loader)  # steps per epoch
    for batch in loader.epoch(3, start_step=10): ...  # training clips, this rank's share
    for batch in loader.steps(10, 5000): ...  # the same over many epochs, without a pause between them
    for batch in loader.clips(ids, epoch=3, purpose="pool"): ...  # training clips of any samples
    for batch in loader.uniform_clips(ids, clips=3): ...  # test clips
    for batch in loader.carry_out(plan): ...  # the clips of a plan
    ```

    A sample's tensors are a function of (seed, epoch, id, purpose): neither batch size, world size nor history changes
    them, and an iterator that starts at a step gives the same batches as one that has reached it. Iterators may be left
    at any point, and several may be used in turns.

    Args:
        config: data, clip, audio, augment, seed and train.batch_size are read.
        device: where the tensors go.
        rank, world_size: this process among those that share the global batch.
        batch_size: clips of the global batch; None takes train.batch_size.

    Raises:
        ConfigError: unknown loader, or settings that do not fit together or do not fit the data.
        ManifestError: (dali) data.path holds no complete prepared data set.
    """
    return pick(LOADERS, config.data.loader, "data.loader")(
        config=config, device=device, rank=rank, world_size=world_size, batch_size=batch_size
    )
