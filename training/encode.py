"""How the encoders run: as one module, channels-last, recomputed, with shuffled BatchNorm for keys; their rows."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.algorithms._checkpoint import checkpoint_wrapper  # torch-private: keeps state dict names
from torch.nn.modules.batchnorm import _BatchNorm  # torch-private: base class of all BatchNorms

from common.randomness import random_key
from model.encoder import CrossModalModel, EncoderOutput, Encoders
from model.layers import stages
from training.distributed import gather_rows, gather_tensor


class PairOutput(NamedTuple):
    """Outputs of both encoders for one batch; its fields are the modalities."""

    video: EncoderOutput
    audio: EncoderOutput


class EncoderPair(nn.Module):
    """The encoders of both modalities as one module, so that DDP and torch.compile see a single one."""

    def __init__(self, encoders: Encoders) -> None:
        super().__init__()
        self.encoders = encoders

    def forward(self, video: torch.Tensor, audio: torch.Tensor) -> PairOutput:
        return PairOutput(self.encoders["video"](video), self.encoders["audio"](audio))


class BatchRows(NamedTuple):
    """Tensors by modality with one row per clip: this rank's clips, or those of the global batch after `gather`."""

    queries: dict[str, torch.Tensor]
    """[B, D] query embeddings."""
    keys: dict[str, torch.Tensor]
    """[B, D] momentum keys."""
    hidden: dict[str, torch.Tensor]
    """[B, H] inputs of the query heads' last layers; empty if the sampler does not use them."""

    @classmethod
    def of_parts(
        cls, parts: list[dict[str, EncoderOutput]], keys: dict[str, torch.Tensor], *, with_hidden: bool
    ) -> BatchRows:
        """Builds the rows of a batch from the encoders' outputs for its parts and from its keys."""
        hidden = {m: _join([part[m].hidden for part in parts]) for m in keys} if with_hidden else {}
        return cls({m: _join([part[m].embedding for part in parts]) for m in keys}, keys, hidden)

    def gather(self, ids: torch.Tensor) -> tuple[BatchRows, torch.Tensor]:
        """Gathers the rows and ids of all ranks, in rank order, in one collective."""
        gathered, all_ids = gather_rows([rows for column in self for rows in column.values()], ids)
        rows = iter(gathered)
        return BatchRows(*({modality: next(rows) for modality in column} for column in self)), all_ids


def _join(parts: list[torch.Tensor]) -> torch.Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def use_channels_last(model: CrossModalModel) -> None:
    """Stores convolution weights channels-last, the fastest layout for convolutions and that of the loader's frames."""
    for encoders in (model.query, model.key):
        encoders["video"].to(memory_format=torch.channels_last_3d)
        encoders["audio"].to(memory_format=torch.channels_last)


def recompute_activations(model: CrossModalModel) -> None:
    """Makes each stage of the query backbones keep only its inputs; the backward pass recomputes the activations."""
    for modality in ("video", "audio"):
        backbone = model.query[modality].backbone
        for name, stage in list(stages(backbone)):
            if any(True for _ in stage.parameters()):
                parent, _, last = name.rpartition(".")
                wrapped = checkpoint_wrapper.checkpoint_wrapper(stage, context_fn=_contexts_of(stage))
                setattr(backbone.get_submodule(parent), last, wrapped)


def _contexts_of(stage: nn.Module):
    """Returns a function that creates the context managers of a stage's forward pass and of its recomputation."""

    @contextmanager
    def without_statistics() -> Iterator[None]:
        # The recomputation sees the same batch, whose statistics must not be counted twice.
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
    """Permutes the global batch among ranks for encoding keys (MoCo's shuffling BatchNorm, He et al. 2020, 3.3).

    If a query and its key were normalised with the statistics of the same clips, the encoders could solve the
    contrastive task by these statistics alone. Shuffling costs one gather of the inputs per step.

    Args:
        seed, step: determine the permutation, which is equal on all ranks.
        local_size: m, samples per rank.
    """

    def __init__(self, *, seed: int, step: int, local_size: int) -> None:
        self.world, self.rank = dist.get_world_size(), dist.get_rank()
        generator = torch.Generator().manual_seed(random_key(seed, step, "shuffle batchnorm") >> 65)
        self.order = torch.randperm(self.world * local_size, generator=generator)
        self.local_size = local_size

    def take(self, rows: torch.Tensor) -> torch.Tensor:
        """Returns this rank's rows of the permuted global batch, [m, ...], from every rank's rows [m, ...]."""
        everyone = gather_tensor(rows)
        mine = self.order[self.rank * self.local_size : (self.rank + 1) * self.local_size]
        return everyone[mine.to(rows.device)]

    def restore(self, rows: torch.Tensor) -> torch.Tensor:
        """Undoes `take`: returns the rows of this rank's own samples, [m, ...], from every rank's encoded rows."""
        everyone = gather_tensor(rows)
        unpermuted = torch.empty_like(everyone)
        unpermuted[self.order.to(rows.device)] = everyone
        return unpermuted[self.rank * self.local_size : (self.rank + 1) * self.local_size]
