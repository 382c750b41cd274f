"""How the encoders run: memory format, recomputation, compilation, and keys whose BatchNorm cannot leak."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.nn.modules.batchnorm import _BatchNorm

from common.randomness import random_key
from model.encoder import CrossModalModel, EncoderOutput, Encoders


class PairOutput(NamedTuple):
    """What both encoders give for one batch."""

    video: EncoderOutput
    audio: EncoderOutput


class EncoderPair(nn.Module):
    """Both modalities' encoders as one module: one gradient average, one compiled graph."""

    def __init__(self, encoders: Encoders) -> None:
        super().__init__()
        self.encoders = encoders

    def forward(self, video: torch.Tensor, audio: torch.Tensor) -> PairOutput:
        return PairOutput(self.encoders["video"](video), self.encoders["audio"](audio))


def use_channels_last(model: CrossModalModel) -> None:
    """Lays convolution weights out as the decoders deliver the pixels, which is how convolutions compute fastest."""
    for encoders in (model.query, model.key):
        # torch's stubs know this form of `to` for tensors only.
        encoders["video"].to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
        encoders["audio"].to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def recompute_activations(model: CrossModalModel) -> None:
    """Keeps only the inputs of each stage of the query backbones; a backward pass computes the rest again."""
    for modality in ("video", "audio"):
        backbone = model.query[modality].backbone
        for name, stage in list(backbone.named_children()):
            if any(True for _ in stage.parameters()):
                wrapped = checkpoint_wrapper(stage, context_fn=_contexts_of(stage))
                setattr(backbone, name, wrapped)


def _contexts_of(stage: nn.Module):
    @contextmanager
    def without_statistics() -> Iterator[None]:
        # The second forward sees the same batch: its statistics must not be counted twice.
        norms = [m for m in stage.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
        momenta = [m.momentum for m in norms]
        counts = [m.num_batches_tracked for m in norms]
        for norm, count in zip(norms, counts, strict=True):
            assert count is not None
            norm.momentum, norm.num_batches_tracked = 0.0, count.clone()
        try:
            yield
        finally:
            for norm, momentum, count in zip(norms, momenta, counts, strict=True):
                norm.momentum, norm.num_batches_tracked = momentum, count

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), without_statistics()

    return contexts


class ShuffledShare:
    """Gives each rank other samples to encode than it decoded (MoCo's shuffling BatchNorm, He et al. 2020, 3.3).

    With statistics of a rank's own share, a query and its key would carry the same companions' signature, and the
    contrastive task could be solved by it. Costs one gather of the inputs a step.

    Args:
        seed: with the step, decides the permutation, the same on all ranks.
    """

    def __init__(self, *, seed: int, step: int, local_size: int) -> None:
        self.world, self.rank = dist.get_world_size(), dist.get_rank()
        generator = torch.Generator().manual_seed(random_key(seed, step, "shuffle batchnorm") >> 65)
        self.order = torch.randperm(self.world * local_size, generator=generator)
        self.local_size = local_size

    def take(self, rows: torch.Tensor) -> torch.Tensor:
        """This rank's rows of the permuted global batch, [m, ...] from every rank's [m, ...]."""
        rows = rows.contiguous()
        everyone = rows.new_empty(self.world * self.local_size, *rows.shape[1:])
        dist.all_gather_into_tensor(everyone, rows)
        mine = self.order[self.rank * self.local_size : (self.rank + 1) * self.local_size]
        return everyone[mine.to(rows.device)]

    def give_back(self, rows: torch.Tensor) -> torch.Tensor:
        """From encoded rows of the permuted batch to those of this rank's own samples."""
        everyone = rows.new_empty(self.world * self.local_size, *rows.shape[1:])
        dist.all_gather_into_tensor(everyone, rows.contiguous())
        unpermuted = torch.empty_like(everyone)
        unpermuted[self.order.to(rows.device)] = everyone
        return unpermuted[self.rank * self.local_size : (self.rank + 1) * self.local_size]
