"""--check: what a run would take, found out by two of its steps; nothing is written."""

from __future__ import annotations

import time

import torch
import torch.nn.functional as F

from pipeline.load.clip_loader import ClipLoader
from settings import Config, to_dict
from training.checkpoint import saved_bytes
from training.distributed import World, gather_objects, mean_over_ranks
from training.memory import peak_memory
from training.step import MODALITIES, Learner

STEPS = 2
# Ids that no data set has: the pool is as full as in mid-run, though no clip was encoded for it.
FIRST_ID = 2**40


def check(config: Config, world: World, *, loader: ClipLoader, learner: Learner) -> None:
    """Runs two training steps with full pools and prints on rank 0 what a run takes; to be called by all ranks.

    The learner is not to be used afterwards.
    """
    fill_with_random_keys(learner, seed=config.seed)
    losses, seconds = _steps(loader, learner, world)
    # Before it is gathered and saved: neither belongs to a step.
    peaks = gather_objects(peak_memory(world.device))
    seconds = max(gather_objects(seconds))
    if not world.is_main:
        return
    total_steps = learner.total_steps
    lines = _sizes(config, world, learner)
    lines["data"] = f"{len(loader.ids)} samples, {len(loader)} steps an epoch, {total_steps} steps in all"
    lines["memory"] = f"peak {max(peaks, key=lambda peak: peak.bytes)} a process (the largest of {world.size})"
    hours = seconds * total_steps / 3600
    lines["throughput"] = (
        f"{config.train.batch_size / seconds:.1f} clips/s: {seconds:.3f} s a step, {hours:.2f} h for {total_steps} "
        "(from one step: a rough figure)"
    )
    lines["loss"] = ", ".join(f"{loss:.3f}" for loss in losses) + " (of the first steps, against random negatives)"
    for name, value in lines.items():
        print(f"{name:<13} {value}", flush=True)


def fill_with_random_keys(learner: Learner, *, seed: int) -> None:
    """Fills pools and dictionaries to the last row, so that selections cost what they will cost."""
    config = learner.config
    generator = torch.Generator().manual_seed(seed)
    ids = FIRST_ID + torch.arange(config.pool.size)
    for modality in MODALITIES:
        keys = F.normalize(torch.randn(config.pool.size, config.model.dim, generator=generator))
        learner.active[modality].fill(keys.to(learner.world.device), ids.to(learner.world.device))


def _steps(loader: ClipLoader, learner: Learner, world: World) -> tuple[list[float], float]:
    """The losses of the steps, and the seconds of the last: the first one still allocates and tunes."""
    losses, seconds = [], 0.0
    batches = loader.steps(0, STEPS)
    for step in range(STEPS):
        began = time.perf_counter()
        losses.append(mean_over_ranks(learner.step(next(batches), step))["loss"])
        seconds = time.perf_counter() - began
    return losses, seconds


def _sizes(config: Config, world: World, learner: Learner) -> dict[str, str]:
    trained = {m: sum(p.numel() for p in learner.model.query[m].parameters()) for m in MODALITIES}
    rings = sum(b.nbytes for active in learner.active.values() for b in active.buffers())
    size = saved_bytes({"config": to_dict(config), **learner.state_dict()})
    batch, kept = config.train.batch_size, config.checkpoint
    precision = "bf16 autocast" if learner.bf16 else "fp32"
    return {
        "processes": f"{world.size} on {world.device.type}, {precision}, {batch // world.size} of {batch} clips each",
        "parameters": f"{_millions(sum(trained.values()))} trained (video {_millions(trained['video'])}, "
        f"audio {_millions(trained['audio'])}), as many in the momentum encoders",
        "dictionaries": f"{_megabytes(rings)}: for each modality {config.pool.size} keys in the pool and "
        f"{config.dictionary.size} in the dictionary, of {config.model.dim} numbers",
        "checkpoint": f"{_megabytes(size)}; {kept.keep} kept, one every {kept.every_steps} steps",
    }


def _millions(count: int) -> str:
    return f"{count / 1e6:.2f} M"


def _megabytes(count: int) -> str:
    return f"{count / 1e6:.1f} MB"
