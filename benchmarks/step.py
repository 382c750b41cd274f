"""Times the training step and its parts, and compares it with the same step fed from memory.

    python -m benchmarks.step --config configs/quickstart.yaml --against sampler.name=fifo --json out.json

One run measures three things. *Efficiency*: blocks of steps fed by the loader alternate with blocks fed from memory;
the median ratio of two successive blocks, with its standard error, is the share of the attainable speed that the data
pipeline reaches. *Parts*: the time of each part of a step (on a GPU with a synchronisation after each, so their sum
exceeds the time of a normal step). *Against*: alternating blocks of the step with and without other settings, all
fed from memory. Settings are given as key=value, as for train.py.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import math
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.tools.options import at_least, positive
from common.phases import begin, introduce
from common.terminal import command


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", type=Path, default=Path("configs/quickstart.yaml"), help="YAML of settings")
    parser.add_argument("--against", nargs="+", default=[], metavar="key=value", help="compare with these settings")
    parser.add_argument(
        "--rounds", type=functools.partial(at_least, 2), default=30, help="alternating pairs of blocks, at least 2"
    )
    parser.add_argument("--steps", type=positive, default=6, help="timed steps per block")
    parser.add_argument("--peak-tflops", type=float, default=0.0,
                        help="the GPU's peak TFLOP/s, for model FLOP utilisation; 0: look it up by name")  # fmt: skip
    parser.add_argument("--json", type=Path, help="write the result to this file")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings, as for train.py")
    return parser.parse_intermixed_args(arguments)


if __name__ == "__main__":
    introduce("benchmarks.step", "timing the parts of a training step", parse)

import torch
from torch.utils.flop_counter import FlopCounterMode

import training.step
from benchmarks.tools.result import median_ratio, publish, ratio
from common.environment import environment
from common.finite import NotFiniteError
from model.encoder import build_model
from pipeline.batch import Batch
from pipeline.load.clip_loader import ClipLoader
from pipeline.loader import make_loader
from pipeline.plan.bad_samples import SampleError
from pipeline.shards.manifest import ManifestError
from sampler import build_sampler
from settings import Config, ConfigError, load_config
from training.distributed import World, start
from training.pool import pool_ids
from training.step import Learner
from training.tracking.metrics import StepTimer

PEAK_TFLOPS = {"H200": 989.0, "H100": 989.0, "A100": 312.0}
"""Peak TFLOP/s of dense bf16 products from NVIDIA's data sheets (SXM), by a substring of the GPU's name."""
LEAD = 4
"""Number of untimed steps before a timed block. After three, the loader's queues are full and its threads idle."""
PARTS = {
    "key encoding": (Learner, "_keys"),
    "selection": (Learner, "_select"),
    "forward and loss": (Learner, "_backward"),
    "backward": (torch.Tensor, "backward"),
    "optimiser": (training.step, "update"),
}
"""The timed parts of Learner.step, as (owner, attribute). `_backward` contains selection and backward, which are
subtracted from it."""


def make_learner(config: Config, world: World, loader: ClipLoader) -> Learner:
    """A learner with a filled pool."""
    model = build_model(config.model, audio=config.audio, seed=config.seed)
    learner = Learner(model=model, config=config, world=world, total_steps=1_000_000)
    ids = pool_ids(config, loader.samples, 0, world, mixture=loader.mixture)
    learner.fill(loader.clips(ids, epoch=0, purpose="pool", per_sample=config.clip.per_sample), epoch=0)
    return learner


def synchronise(world: World) -> None:
    if world.device.type == "cuda":
        torch.cuda.synchronize()


def block(learner: Learner, source: Iterator[Batch], *, steps: int, first: int) -> tuple[float, float]:
    """Seconds per step, and the share of this time spent waiting for the next batch."""
    synchronise(learner.world)
    timer = StepTimer(learner.world.device)
    for number in range(steps):
        timer.batch_requested()
        batch = next(source)
        timer.batch_ready()
        learner.step(batch, first + number)
    synchronise(learner.world)
    reading = timer.read(1)
    return reading["step_seconds"], reading["data_wait"]


def efficiency(
    learner: Learner, loader: ClipLoader, batches: list[Batch], *, rounds: int, steps: int
) -> dict[str, Any]:
    """Compares the step fed by the loader with the step fed from memory."""
    begin(f"timing {rounds} blocks of steps fed by the loader, and as many fed from memory")
    live, memory = loader.steps(0, sys.maxsize), cycle(batches)
    first_steps = itertools.count(0, LEAD + steps)

    def timed(source: Iterator[Batch]) -> tuple[float, float]:
        first = next(first_steps)
        # For some steps after its last batch was taken, the loader still prefetches, which would disturb the timing.
        block(learner, source, steps=LEAD, first=first)
        return block(learner, source, steps=steps, first=first + LEAD)

    fed, limit, waits = [], [timed(memory)[0]], []
    for _ in range(rounds):
        seconds, wait = timed(live)
        fed.append(seconds)
        waits.append(wait)
        limit.append(timed(memory)[0])
    # Each block is compared with those before and after it: the machine's speed drifts more than the two differ.
    pairs = zip(itertools.pairwise(limit), fed, strict=True)
    ratios = [ratio(math.sqrt(before * after), f, "the efficiency") for (before, after), f in pairs]
    found = median_ratio(ratios)
    return {
        "seconds_fed_by_loader": statistics.median(fed),
        "seconds_fed_from_memory": statistics.median(limit),
        "efficiency": found["ratio"],
        "standard_error": found["standard_error"],
        "data_wait": statistics.median(waits),
    }


def cycle(batches: list[Batch]) -> Iterator[Batch]:
    while True:
        yield from batches


def parts(learner: Learner, batches: list[Batch], *, steps: int) -> dict[str, float]:
    """Seconds per step of each part, fed from memory."""
    begin("timing the parts of a step")
    seconds: dict[str, float] = defaultdict(float)

    def timed(name: str, work: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(work)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            synchronise(learner.world)
            began = time.perf_counter()
            result = work(*args, **kwargs)
            synchronise(learner.world)
            seconds[name] += time.perf_counter() - began
            return result

        return wrapped

    originals = {name: getattr(owner, attribute) for name, (owner, attribute) in PARTS.items()}
    try:
        for name, (owner, attribute) in PARTS.items():
            setattr(owner, attribute, timed(name, originals[name]))
        whole = block(learner, cycle(batches), steps=steps, first=0)[0]
    finally:
        for name, (owner, attribute) in PARTS.items():
            setattr(owner, attribute, originals[name])
    found = {name: value / steps for name, value in seconds.items()}
    found["forward and loss"] -= found["selection"] + found["backward"]
    found = {name: found[name] for name in PARTS}
    return found | {"rest": whole - sum(found.values()), "whole step": whole}


def against(learners: dict[str, Learner], batches: list[Batch], *, rounds: int, steps: int) -> dict[str, float]:
    """Median seconds per step of each learner, in alternating blocks."""
    begin(f"timing {rounds} blocks of steps with each of the compared settings")
    seconds: dict[str, list[float]] = {name: [] for name in learners}
    for number in range(rounds):
        for name, learner in learners.items():
            seconds[name].append(block(learner, cycle(batches), steps=steps, first=number * steps)[0])
    return {name: statistics.median(values) for name, values in seconds.items()}


def flops(learner: Learner, batch: Batch) -> int:
    """Floating-point operations in one step's convolutions and matrix products, as torch counts them."""
    with FlopCounterMode(display=False) as counter:
        learner.step(batch, 0)
    return counter.get_total_flops()


def known_peak(gpu: str | None) -> float:
    """Peak TFLOP/s of a GPU by its name; 0 if unknown."""
    return next((peak for name, peak in PEAK_TFLOPS.items() if gpu and name in gpu), 0.0)


def measure(options: argparse.Namespace) -> dict[str, Any]:
    config, changed = (load_config(Config, options.config, options.overrides + more) for more in ([], options.against))
    for sampler in (config.sampler, changed.sampler):
        build_sampler(sampler.name, sampler.options)  # an unknown rule is refused now, not after the measurements
    world = start(config.train.device, config.train.threads)
    loader = make_loader(config, device=world.device)
    source = loader.steps(0, sys.maxsize)
    batches = [next(source) for _ in range(8)]
    learner = make_learner(config, world, loader)
    block(learner, cycle(batches), steps=5, first=0)
    result: dict[str, Any] = {
        "environment": environment("torchvision", "nvidia-dali-cuda130", "faiss-gpu"),
        "setting": {"config": options.config.name, "overrides": options.overrides, "threads": torch.get_num_threads()}
        | {"rounds": options.rounds, "steps": options.steps},
        "flops_per_step": flops(learner, batches[0]),
        "parts": parts(learner, batches, steps=5 * options.steps),
        "efficiency": efficiency(learner, loader, batches, rounds=options.rounds, steps=options.steps),
    }
    if peak := options.peak_tflops or known_peak(result["environment"]["gpu"]):
        rate = result["flops_per_step"] / result["efficiency"]["seconds_fed_by_loader"]
        result["model_flop_utilisation"] = {"share": rate / (peak * 1e12), "peak_tflops": peak}
    if options.against:
        other = make_learner(changed, world, loader)
        block(other, cycle(batches), steps=5, first=0)
        names = {"as configured": learner, " ".join(options.against): other}
        seconds = against(names, batches, rounds=options.rounds, steps=options.steps)
        first, second = seconds.values()
        result["against"] = {"seconds": seconds, "ratio": ratio(first, second, "the ratio of the compared settings")}
    return result


@command("benchmarks.step", NotFiniteError, ConfigError, ManifestError, SampleError)
def main(arguments: list[str] | None = None) -> None:
    options = parse(arguments)
    result = measure(options)
    publish(result, options.json)


if __name__ == "__main__":
    sys.exit(main())
