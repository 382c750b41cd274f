"""One training step: keys, queries, selection of negatives, loss, optimiser step, momentum update."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from model.encoder import OTHER_MODALITY, CrossModalModel, EncoderOutput
from model.loss import batch_retrieval, frequency_weights
from model.objective import Negatives, symmetric_loss
from model.parts import rate_factors
from pipeline.batch import Batch, clip_ids
from sampler.active import ActiveDictionary
from settings import Config
from settings.schedule import learning_rate
from training.distributed import World, gather_rows
from training.encode import BatchRows, EncoderPair, PairOutput, ShuffledShare, recompute_activations, use_channels_last
from training.nonfinite import NonFiniteGuard, flatten_buffers, restore_buffers, restore_where
from training.optim import build_optimizer, update
from training.pool import choose_clips
from training.precision import uses_bf16
from training.sync_batchnorm import average_over_ranks, running_statistics, synchronise_batchnorm

MODALITIES = tuple(OTHER_MODALITY)

Metrics = dict[str, torch.Tensor | float]


class Learner:
    """Everything that training changes (model, optimiser, pools, dictionaries) and the step that changes it.

    Args:
        model: query and momentum encoders.
        config: settings of the run.
        world: this process and its group; gradients (and by default BatchNorm statistics) cover all processes.
        total_steps: length of the run, for the learning-rate schedule.
    """

    def __init__(self, *, model: CrossModalModel, config: Config, world: World, total_steps: int) -> None:
        self.config, self.world, self.total_steps = config, world, total_steps
        if world.size > 1 and config.train.batchnorm == "sync":
            synchronise_batchnorm(model, world.device)
        model.freeze(config.optim.freeze)
        self.model = model.to(world.device)
        factors = rate_factors(model.query, rates=config.optim.factors, layer_decay=config.optim.layer_decay)
        if config.train.channels_last:
            use_channels_last(self.model)
        if config.train.recompute:
            recompute_activations(self.model)
        pair = EncoderPair(self.model.query)
        self.optimizer = build_optimizer(pair.parameters(), config.optim, factors=factors)
        self._encode_queries: Callable[..., PairOutput] = self._wrap(pair)
        self._encode_keys: Callable[..., PairOutput] = EncoderPair(self.model.key)
        if config.train.compile:
            self._encode_queries = torch.compile(self._encode_queries)
            self._encode_keys = torch.compile(self._encode_keys)
        self._needs_hidden = config.sampler.embedding in ("gradient", "negative_gradient")
        self.active = {modality: self._build_dictionary(modality) for modality in MODALITIES}
        self._newest: tuple[dict[str, torch.Tensor], torch.Tensor]
        """Keys and clip ids of the global batch of this step, which enter the pools after the loss."""
        self._weights: dict[str, torch.Tensor] = {}
        """Weights of this step's negatives by modality; empty unless loss.outrank_power is set."""
        self.guard = NonFiniteGuard(limit=config.train.max_nonfinite_steps).to(world.device)
        self._float_buffers = [buffer for buffer in self.model.buffers() if buffer.is_floating_point()]
        # With sync they are equal already. Otherwise rank 0 would save those of its own share of the clips, and a
        # resumed run would give them to all ranks.
        unequal = world.size > 1 and config.train.batchnorm != "sync"
        self._local_statistics = running_statistics(self.model) if unequal else []
        self.bf16 = uses_bf16(config.train.precision, world.device, warn=world.is_main)

    def _wrap(self, pair: EncoderPair) -> nn.Module:
        if self.world.size == 1:
            return pair
        devices = [self.world.device] if self.world.device.type == "cuda" else None
        # DDP need not synchronise the buffers. They are BatchNorm's running statistics, which are equal on all ranks:
        # with train.batchnorm=sync from the start, otherwise after each step. torch 2.14 renamed the option.
        new_name = "forward_sync_buffers" in inspect.signature(DistributedDataParallel).parameters
        no_buffer_sync: dict[str, Any] = {"forward_sync_buffers" if new_name else "broadcast_buffers": False}
        return DistributedDataParallel(pair, device_ids=devices, gradient_as_bucket_view=True, **no_buffer_sync)

    def _build_dictionary(self, modality: str) -> ActiveDictionary:
        config = self.config
        return ActiveDictionary(
            sampler=config.sampler,
            pool=config.pool_in_use,
            dictionary=config.dictionary,
            dim=config.model.dim,
            temperature=config.loss.temperature,
            hidden=self.model.query[OTHER_MODALITY[modality]].head.last.in_features if self._needs_hidden else None,
            seed=config.seed,
            purpose=modality,
            per_sample=config.clip.per_sample,
            partners=config.loss.needs_partners,
        ).to(self.world.device)

    def fill(self, batches: Iterator[Batch], *, epoch: int) -> int:
        """Encodes random clips into the pools, and into the dictionaries where those are still empty.

        Args:
            batches: this rank's shares of global batches.
            epoch: selects the permutations of the shuffling BatchNorm.

        Returns:
            The number of clips encoded by all ranks together.

        Raises:
            Exception: any error of `batches` or of encoding; the learner's state is then unchanged.
        """
        self.model.train()
        before = [(buffer, buffer.clone()) for buffer in self.model.buffers()]
        try:
            keys, all_ids = self._encode_pool(batches, epoch=epoch)
        except Exception:
            for buffer, value in before:  # BatchNorm's statistics and counters
                buffer.copy_(value)
            raise
        average_over_ranks(self._local_statistics)
        for modality in MODALITIES:
            self.active[modality].fill(keys[modality], all_ids, keys[OTHER_MODALITY[modality]])
        return len(all_ids)

    def _encode_pool(self, batches: Iterator[Batch], *, epoch: int) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        """Returns the momentum keys by modality, [n, D], and the ids [n] of all ranks' clips."""
        keys: dict[str, list[torch.Tensor]] = {modality: [] for modality in MODALITIES}
        ids = []
        for number, batch in enumerate(batches):
            # Negative step numbers give permutations that no training step uses.
            local = self._keys(batch, step=-1 - epoch * 1_000_000 - number)
            gathered, all_ids = gather_rows([local[m] for m in MODALITIES], self._clip_ids(batch))
            for modality, rows in zip(MODALITIES, gathered, strict=True):
                keys[modality].append(rows)
            ids.append(all_ids)
        return {modality: torch.cat(rows) for modality, rows in keys.items()}, torch.cat(ids)

    def step(self, batch: Batch, step: int) -> Metrics:
        """Performs training step number `step` (from 0) on this rank's share of a global batch.

        Returns:
            Metrics as 0-d tensors and plain numbers.
        """
        self.model.train()
        self.optimizer.zero_grad(set_to_none=True)
        buffers_before = flatten_buffers(self._float_buffers)
        keys = self._keys(batch, step=step)
        ids = self._clip_ids(batch)
        everything = None
        if self.config.train.super_batch > 1:
            batch, keys, ids, everything = choose_clips(
                batch, keys, ids, config=self.config, world=self.world, step=step
            )
        parts = self.config.train.accumulate
        if parts == 1:
            metrics = self._backward(batch, keys, ids, step=step, select=True)
        else:
            metrics = self._accumulate(batch, keys, ids, parts=parts, step=step)
        newest, newest_ids = everything or self._newest
        for modality, active in self.active.items():
            active.add(newest[modality], newest_ids)
        rate = self._learning_rate(step)
        norm = update(self.optimizer, rate=rate, clip_norm=self.config.optim.clip_grad_norm)
        finite = torch.isfinite(norm)
        restore_where(finite, self._float_buffers, buffers_before)
        average_over_ranks(self._local_statistics)
        self.guard.record(finite, step=step + 1, ids=batch.ids)
        self.model.update_momentum()
        return metrics | {"lr": rate, "grad_norm": norm, "skipped_steps": self.guard.total}

    def _clip_ids(self, batch: Batch) -> torch.Tensor:
        # non_blocking: the GPU may still be computing the previous step.
        return clip_ids(batch.ids.to(self.world.device, non_blocking=True), self.config.clip.per_sample)

    def _learning_rate(self, step: int) -> float:
        optim = self.config.optim
        return learning_rate(step, peak=optim.lr, warmup=optim.warmup_steps, total=self.total_steps)

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.world.device.type, dtype=torch.bfloat16, enabled=self.bf16)

    @torch.no_grad()
    def _keys(self, batch: Batch, *, step: int) -> dict[str, torch.Tensor]:
        """Computes the momentum keys [m, D] of both modalities, float32, in the batch's order."""
        video, audio = batch.video, batch.audio
        # Training batches always hold both modalities.
        assert video is not None
        assert audio is not None
        shuffled = None
        if self.config.train.batchnorm == "shuffle" and self.world.size > 1:
            shuffled = ShuffledShare(seed=self.config.seed, step=step, local_size=len(batch.ids))
            video, audio = shuffled.take(video), shuffled.take(audio)
        with self._autocast():
            outputs = self._encode_keys(video, audio)._asdict()
        keys = {modality: output.embedding.float() for modality, output in outputs.items()}
        return {m: shuffled.restore(rows) for m, rows in keys.items()} if shuffled else keys

    def _backward(
        self,
        batch: Batch,
        keys: dict[str, torch.Tensor],
        ids: torch.Tensor,
        *,
        step: int,
        select: bool,
        share: float = 1.0,
    ) -> Metrics:
        """Computes the loss of a batch, or of a part of one, and adds its gradient to the parameters' gradients.

        Args:
            select: whether to update the dictionaries between the forward pass and the loss.
            share: weight of the loss, which is the fraction of the rank's clips that are in `batch`.
        """
        with self._autocast():
            outputs = self._encode_queries(batch.video, batch.audio)._asdict()
        metrics: Metrics = {}
        if select:
            metrics = self._select([outputs], keys, ids, step)
        loss, values = symmetric_loss(
            {modality: output.embedding.float() for modality, output in outputs.items()},
            keys,
            {modality: self._negatives(modality, ids) for modality in MODALITIES},
            config=self.config.loss,
            step=step,
        )
        (share * loss).backward()
        return metrics | values

    def _negatives(self, modality: str, ids: torch.Tensor) -> Negatives:
        active, other = self.active[modality], self.active[OTHER_MODALITY[modality]]
        # Both pools hold the same clips in the same rows.
        partners = other.pool.keys if active.dictionary is None else active.dictionary.partners
        return Negatives(active.keys, partners, active.excluded(ids), self._weights.get(modality))

    def _accumulate(
        self, batch: Batch, keys: dict[str, torch.Tensor], ids: torch.Tensor, *, parts: int, step: int
    ) -> Metrics:
        """Splits the batch into up to `parts` parts and adds up their gradients.

        Selection needs the queries of all parts, so these are first encoded once without gradient.
        """
        assert batch.video is not None
        assert batch.audio is not None
        size = -(-len(ids) // parts)
        rows = [slice(first, first + size) for first in range(0, len(ids), size)]
        pieces = [Batch(batch.video[r], batch.audio[r], batch.ids[r], batch.start[r]) for r in rows]
        buffers = flatten_buffers(self._float_buffers)
        with torch.no_grad(), self._autocast():
            outputs = [self._encode_queries(piece.video, piece.audio)._asdict() for piece in pieces]
        # The parts are encoded again below, and running statistics must not count a clip twice.
        restore_buffers(self._float_buffers, buffers)
        metrics = self._select(outputs, keys, ids, step)
        for number, (r, piece) in enumerate(zip(rows, pieces, strict=True)):
            share = len(piece.ids) / len(ids)
            # There may be fewer pieces than parts: 6 clips in 4 parts make 3 pieces of 2.
            encode, last = self._encode_queries, number == len(pieces) - 1
            with encode.no_sync() if isinstance(encode, DistributedDataParallel) and not last else nullcontext():
                part = self._backward(
                    piece, {m: keys[m][r] for m in MODALITIES}, ids[r], step=step, select=False, share=share
                )
            for name, value in part.items():
                metrics[name] = metrics.get(name, 0.0) + share * value
        return metrics

    def _select(
        self, parts: list[dict[str, EncoderOutput]], keys: dict[str, torch.Tensor], ids: torch.Tensor, step: int
    ) -> Metrics:
        """Gathers the global batch and selects each dictionary's negatives.

        Args:
            parts: the query encoders' outputs for the parts of this rank's batch.
        """
        rows, all_ids = BatchRows.of_parts(parts, keys, with_hidden=self._needs_hidden).gather(ids)
        metrics: Metrics = {}
        loss = self.config.loss
        for modality in MODALITIES:
            other, active = OTHER_MODALITY[modality], self.active[modality]
            # Video keys are the negatives of audio queries, so these score the video candidates; and vice versa.
            stats = active.update(
                rows.queries[other],
                rows.hidden.get(other),
                batch_ids=all_ids,
                step=step,
                positives=rows.keys[modality],
                # Both pools hold the same clips in the same rows.
                partners=self.active[other].pool.keys,
            )
            metrics |= {f"{modality}/{name}": value for name, value in stats.items()}
            if loss.outrank_power:
                self._weights[modality] = frequency_weights(
                    rows.queries[other],
                    rows.keys[modality],
                    active.keys,
                    excluded=active.excluded(all_ids),
                    power=loss.outrank_power,
                    floor=loss.outrank_floor,
                )
        self._newest = rows.keys, all_ids
        return metrics | batch_retrieval(rows.queries, rows.keys, all_ids // self.config.clip.per_sample)

    def diagnostics(self, labels: np.ndarray | None) -> dict[str, float]:
        """Measures the dictionaries and how well the last selection covers its pool; see `ActiveDictionary`.

        Args:
            labels: [n] class of each sample id, -1 = unknown; with None no classes are counted.
        """
        classes = None if labels is None else torch.tensor(labels, dtype=torch.int64)
        return {
            f"{modality}/{name}": value
            for modality, active in self.active.items()
            for name, value in active.diagnostics(classes).items()
        }

    def state_dict(self) -> dict[str, Any]:
        """Returns everything needed to resume, as tensors and plain values."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "guard": self.guard.state_dict(),
            "active": {modality: active.state_dict() for modality, active in self.active.items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.guard.load_state_dict(state["guard"])
        for modality, active in self.active.items():
            active.load_state_dict(state["active"][modality])
