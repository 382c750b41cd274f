"""One training step: queries, keys, active dictionaries, loss, update, momentum."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from config import Config
from model.encoder import CrossModalModel
from model.loss import info_nce
from pipeline.batch import Batch
from sampler.active import ActiveDictionary
from training.batchnorm import synchronise_batchnorm
from training.distributed import World, gather_rows
from training.faults import NonFiniteGuard, restore_where

MODALITIES = ("video", "audio")
OTHER = {"video": "audio", "audio": "video"}


class QueryPair(nn.Module):
    """Both query encoders as one module, so that one DistributedDataParallel averages both's gradients."""

    def __init__(self, query: nn.ModuleDict) -> None:
        super().__init__()
        self.query = query

    def forward(self, video: torch.Tensor, audio: torch.Tensor) -> tuple[Any, Any]:
        return self.query["video"](video), self.query["audio"](audio)


def learning_rate(step: int, *, peak: float, warmup: int, total: int) -> float:
    """Linear warm-up to `peak` over `warmup` steps, then a cosine to zero at `total`."""
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = (step - warmup) / max(1, total - warmup)
    return 0.5 * peak * (1 + math.cos(math.pi * min(1.0, progress)))


class Learner:
    """Everything that changes while training: model, optimiser, dictionaries; and the step that changes it.

    Args:
        model: query and momentum encoders, on the CPU or already on the device.
        config: the whole run's configuration.
        world: this process among all; with several, BatchNorm and gradients span them.
        total_steps: length of the run, for the learning-rate schedule.
    """

    def __init__(self, *, model: CrossModalModel, config: Config, world: World, total_steps: int) -> None:
        self.config, self.world, self.total_steps = config, world, total_steps
        if world.size > 1:
            model = synchronise_batchnorm(model, world.device)
        self.model = model.to(world.device)
        queries = QueryPair(self.model.query)
        self._queries: nn.Module = queries
        if world.size > 1:
            devices = [world.device] if world.device.type == "cuda" else None
            self._queries = DistributedDataParallel(
                queries, device_ids=devices, broadcast_buffers=False, gradient_as_bucket_view=True
            )
        self.optimizer = build_optimizer(queries.parameters(), config)
        self._needs_hidden = config.sampler.embedding in ("gradient", "negative_gradient")
        self.active = {modality: self._build_dictionary(modality) for modality in MODALITIES}
        self.guard = NonFiniteGuard(limit=config.train.max_nonfinite_steps).to(world.device)
        self._float_buffers = [buffer for buffer in self.model.buffers() if buffer.is_floating_point()]
        precision = config.train.precision
        self._bf16 = precision == "bf16" or (precision == "auto" and world.device.type == "cuda")

    def _build_dictionary(self, modality: str) -> ActiveDictionary:
        config = self.config
        return ActiveDictionary(
            sampler=config.sampler,
            pool=config.pool,
            dictionary=config.dictionary,
            dim=config.model.dim,
            temperature=config.loss.temperature,
            hidden=self.model.query[OTHER[modality]].head.last.in_features if self._needs_hidden else None,
            seed=config.seed,
            purpose=modality,
        ).to(self.world.device)

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.world.device.type, dtype=torch.bfloat16, enabled=self._bf16)

    @torch.no_grad()
    def encode_keys(self, batch: Batch) -> dict[str, torch.Tensor]:
        """Momentum keys [B, D] of both modalities, float32."""
        with self._autocast():
            outputs = {"video": self.model.key["video"](batch.video), "audio": self.model.key["audio"](batch.audio)}
        return {modality: output.embedding.float() for modality, output in outputs.items()}

    def fill(self, batches: Iterator[Batch]) -> int:
        """Encodes random clips for the pool, and for the dictionaries where they are still empty.

        Each batch is this rank's share of a global batch. Returns how many clips were encoded over all ranks.
        """
        keys: dict[str, list[torch.Tensor]] = {modality: [] for modality in MODALITIES}
        ids = []
        for batch in batches:
            local = self.encode_keys(batch)
            gathered, all_ids = gather_rows([local[m] for m in MODALITIES], batch.ids.to(self.world.device))
            for modality, rows in zip(MODALITIES, gathered, strict=True):
                keys[modality].append(rows)
            ids.append(all_ids)
        every_id = torch.cat(ids)
        for modality in MODALITIES:
            self.active[modality].fill(torch.cat(keys[modality]), every_id)
        return len(every_id)

    def step(self, batch: Batch, step: int) -> dict[str, torch.Tensor | float]:
        """Trains on this rank's share of a global batch; returns 0-d tensors and plain numbers to log."""
        temperature = self.config.loss.temperature
        self.model.train()
        buffers_before = [buffer.clone() for buffer in self._float_buffers]
        with self._autocast():
            outputs = dict(zip(MODALITIES, self._queries(batch.video, batch.audio), strict=True))
        keys = self.encode_keys(batch)
        ids = batch.ids.to(self.world.device)
        metrics = self._select(outputs, keys, ids, step)

        losses = {}
        for modality in MODALITIES:
            other = OTHER[modality]
            negatives = self.active[other]
            # Empty places and the query's own clip are no negatives.
            mask = (negatives.ids < 0)[None, :] | (negatives.ids[None, :] == ids[:, None])
            losses[modality], metrics[f"accuracy_{modality}"] = info_nce(
                outputs[modality].embedding.float(), keys[other], negatives.keys, temperature=temperature, mask=mask
            )
        loss = losses["video"] + losses["audio"]
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = self._update(step)
        finite = torch.isfinite(norm)
        restore_where(finite, self._float_buffers, buffers_before)
        self.guard.note(finite, step=step, ids=batch.ids)
        self.model.update_momentum()
        metrics |= {"loss": loss.detach(), "loss_v2a": losses["video"].detach(), "loss_a2v": losses["audio"].detach()}
        metrics |= {"lr": self.optimizer.param_groups[0]["lr"], "grad_norm": norm, "skipped_steps": self.guard.total}
        return metrics

    def _select(
        self, outputs: dict[str, Any], keys: dict[str, torch.Tensor], ids: torch.Tensor, step: int
    ) -> dict[str, torch.Tensor | float]:
        """Gathers the global batch, lets each dictionary choose, then gives the pools this batch's keys."""
        columns = [outputs[m].embedding for m in MODALITIES] + [keys[m] for m in MODALITIES]
        if self._needs_hidden:
            columns += [outputs[m].hidden for m in MODALITIES]
        rows, all_ids = gather_rows(columns, ids)
        all_queries = dict(zip(MODALITIES, rows[:2], strict=True))
        all_keys = dict(zip(MODALITIES, rows[2:4], strict=True))
        all_hidden = dict(zip(MODALITIES, rows[4:] or (None, None), strict=True))
        metrics: dict[str, torch.Tensor | float] = {}
        for modality in MODALITIES:
            other, active = OTHER[modality], self.active[modality]
            # Visual candidates are scored by what they do to the audio queries, and the other way round.
            stats = active.update(
                all_queries[other], all_hidden[other], batch_ids=all_ids, step=step, positives=all_keys[modality]
            )
            metrics |= {f"{modality}/{name}": value for name, value in stats.items()}
            active.add(all_keys[modality], all_ids)
        metrics |= batch_retrieval(all_queries, all_keys)
        return metrics

    def _update(self, step: int) -> torch.Tensor:
        """The optimiser's step; returns the gradient's norm before clipping."""
        optim = self.config.optim
        rate = learning_rate(step, peak=optim.lr, warmup=optim.warmup_steps, total=self.total_steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        if optim.clip_grad_norm:
            nn.utils.clip_grads_with_norm_(parameters, optim.clip_grad_norm, norm)
        # GradScaler's own way of telling a fused optimiser to skip: the GPU decides, the host does not wait. The
        # gradients are already averaged, so one rank's NaN is every rank's, and all skip together.
        self.optimizer.found_inf = (~torch.isfinite(norm)).float()  # type: ignore[attr-defined]
        self.optimizer.step()
        return norm.detach()

    def state_dict(self) -> dict[str, Any]:
        """All that a run needs to go on, as tensors and plain values."""
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


def build_optimizer(parameters: Iterator[nn.Parameter], config: Config) -> torch.optim.Optimizer:
    """AdamW or SGD; vectors (biases, BatchNorm) are not decayed."""
    optim = config.optim
    trained = [p for p in parameters if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.dim() > 1], "weight_decay": optim.weight_decay},
        {"params": [p for p in trained if p.dim() <= 1], "weight_decay": 0.0},
    ]
    if optim.name == "adamw":
        return torch.optim.AdamW(groups, lr=optim.lr, fused=True)
    return torch.optim.SGD(groups, lr=optim.lr, momentum=optim.sgd_momentum, fused=True)


@torch.no_grad()
def batch_retrieval(queries: dict[str, torch.Tensor], keys: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Share of the global batch whose paired key is the nearest of all the batch's keys, both ways."""
    right = torch.arange(len(queries["video"]), device=queries["video"].device)
    return {
        f"retrieval_{name}": ((queries[m] @ keys[OTHER[m]].T).argmax(dim=1) == right).float().mean()
        for m, name in (("video", "v2a"), ("audio", "a2v"))
    }
