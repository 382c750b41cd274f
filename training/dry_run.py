"""--dry-run: reports the memory, throughput and sizes of a run after two of its steps, and writes nothing."""

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
from training.tracking.metrics import shares_of_mix

STEPS = 2
FIRST_ID = 2**40
"""First id of the random keys that fill the pools; no data set has ids this large. Random keys make the pools as full
as later in a run without encoding a clip per key."""


def dry_run(config: Config, world: World, *, loader: ClipLoader, learner: Learner) -> None:
    """Runs two training steps with full pools and prints what the run needs on rank 0; all ranks must call it.

    Do not use the learner afterwards: its pools hold random keys.
    """
    fill_with_random_keys(learner, seed=config.seed)
    losses, seconds = _steps(loader, learner, world)
    # Read before gathering and serialising the state, which are not part of a step.
    peaks = gather_objects(peak_memory(world.device))
    seconds = max(gather_objects(seconds))
    if not world.is_main:
        return
    total_steps = learner.total_steps
    lines = _sizes(config, world, learner)
    lines["data"] = f"{len(loader.samples)} samples, {len(loader)} steps per epoch, {total_steps} steps in total"
    for name, share in shares_of_mix({} if loader.mixture is None else loader.mixture.metrics(total_steps)).items():
        lines["data"] += f"; {share:.1%} of the clips from {name}"
    lines["memory"] = f"peak {max(peaks, key=lambda peak: peak.bytes)} per process (the largest of {world.size})"
    hours = seconds * total_steps / 3600
    lines["throughput"] = (
        f"{config.train.batch_size / seconds:.1f} clips/s: {seconds:.3f} s per step, {hours:.2f} h for {total_steps} "
        "steps (a rough estimate from one step)"
    )
    lines["loss"] = ", ".join(f"{loss:.3f}" for loss in losses) + " (of the first steps, against random negatives)"
    for name, value in lines.items():
        print(f"{name:<13} {value}", flush=True)


def fill_with_random_keys(learner: Learner, *, seed: int) -> None:
    """Fills pools and dictionaries completely, so that selecting negatives costs as much as later in the run."""
    config = learner.config
    generator = torch.Generator().manual_seed(seed)
    ids = FIRST_ID + torch.arange(config.pool.size)
    for modality in MODALITIES:
        keys = F.normalize(torch.randn(config.pool.size, config.model.dim, generator=generator))
        learner.active[modality].fill(keys.to(learner.world.device), ids.to(learner.world.device))


def _steps(loader: ClipLoader, learner: Learner, world: World) -> tuple[list[float], float]:
    """Returns the steps' losses and the seconds of the last step; the first one also allocates and tunes kernels."""
    losses, seconds = [], 0.0
    batches = loader.steps(0, STEPS)
    for step in range(STEPS):
        started = time.perf_counter()
        losses.append(mean_over_ranks(learner.step(next(batches), step))["loss"])
        seconds = time.perf_counter() - started
    return losses, seconds


def _sizes(config: Config, world: World, learner: Learner) -> dict[str, str]:
    parameters = {m: sum(p.numel() for p in learner.model.query[m].parameters() if p.requires_grad) for m in MODALITIES}
    held = sum(p.numel() for p in learner.model.query.parameters())
    buffer_bytes = sum(buffer.nbytes for active in learner.active.values() for buffer in active.buffers())
    checkpoint_bytes = saved_bytes({"config": to_dict(config), **learner.state_dict()})
    batch, kept = config.train.batch_size, config.checkpoint
    precision = "bf16 autocast" if learner.bf16 else "fp32"
    chosen = "" if config.dictionary.whole_pool else f" and {config.dictionary.size} in the dictionary"
    return {
        "processes": f"{world.size} on {world.device.type}, {precision}, {batch // world.size} of {batch} clips each",
        "parameters": f"{_millions(sum(parameters.values()))} trained (video {_millions(parameters['video'])}, "
        f"audio {_millions(parameters['audio'])}); {_millions(held)} in the query encoders, and as many in the "
        "momentum encoders",
        "dictionaries": f"{_megabytes(buffer_bytes)}: per modality {config.pool.size} keys in the pool{chosen}, "
        f"{config.model.dim} numbers per key",
        "checkpoint": f"{_megabytes(checkpoint_bytes)}; {kept.keep} kept, one every {kept.every_steps} steps",
    }


def _millions(count: int) -> str:
    return f"{count / 1e6:.2f} M"


def _megabytes(count: int) -> str:
    return f"{count / 1e6:.1f} MB"
