"""Trains 1 to n processes, counts the bytes of each collective and estimates their cost on 8 nodes with 8 GPUs each.

    python -m benchmarks.scaling --processes 1 2 4 --json out.json [key=value ...]

Every process trains on clips from memory with the same local batch (weak scaling: ideally the efficiency stays at
100 % as long as every process has its own core). The bytes are counted where the collectives are called.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.tools.options import positive
from common.phases import introduce
from common.terminal import command


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", type=Path, default=Path("configs/quickstart.yaml"), help="YAML of settings")
    parser.add_argument(
        "--processes", type=positive, nargs="+", default=[1, 2, 4], help="numbers of processes to compare"
    )
    parser.add_argument("--steps", type=positive, default=20, help="timed steps per run")
    parser.add_argument("--threads", type=positive, default=1, help="torch threads per process")
    parser.add_argument("--json", type=Path, help="write the result to this file")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings, as for train.py")
    return parser.parse_intermixed_args(arguments)


if __name__ == "__main__" and "--worker" not in sys.argv:
    introduce("benchmarks.scaling", "timing training steps on several processes", parse)

import torch
import torch.distributed as dist

from benchmarks.step import synchronise
from benchmarks.tools.result import publish, ratio
from common.environment import environment
from common.finite import NotFiniteError
from model.encoder import build_model
from pipeline.batch import Batch
from settings import Config, ConfigError, load_config
from training import distributed
from training.distributed import ALL_GATHER
from training.step import Learner

NODES, GPUS_PER_NODE = 8, 8
"""The cluster for which the cost is estimated."""
NVLINK, NETWORK, LATENCY = 360e9, 40e9, 20e-6
"""Assumed bytes/s per GPU and direction (80 % of NVLink 4's 450 GB/s and of 400 Gbit/s), and seconds per collective."""


class Counter:
    """Counts the calls and bytes of the collectives in a step."""

    def __init__(self) -> None:
        self.calls: dict[str, int] = {}
        self.bytes: dict[str, int] = {}

    def record(self, name: str, tensor: torch.Tensor) -> None:
        self.calls[name] = self.calls.get(name, 0) + 1
        self.bytes[name] = self.bytes.get(name, 0) + tensor.numel() * tensor.element_size()

    def install(self) -> None:
        """Wraps torch.distributed's collectives until the process ends."""
        gather, reduce = getattr(dist, ALL_GATHER), dist.all_reduce

        def counted_gather(output: torch.Tensor, local: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
            # On GPUs, torch's SyncBatchNorm gathers too: one row per layer with means, deviations and the count.
            what = "queries, keys and hidden" if local.dim() > 1 else "BatchNorm statistics"
            self.record(f"all-gather of {what}", local)
            return gather(output, local, *args, **kwargs)

        def counted_reduce(tensor: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
            self.record("all-reduce of BatchNorm statistics", tensor)
            return reduce(tensor, *args, **kwargs)

        setattr(dist, ALL_GATHER, counted_gather)
        dist.all_reduce = counted_reduce


def random_batch(config: Config, first_id: int, device: torch.device) -> Batch:
    generator = torch.Generator().manual_seed(first_id)
    size, clip, audio = config.train.batch_size, config.clip, config.audio
    return Batch(
        video=torch.randn(size, 3, clip.frames, clip.size, clip.size, generator=generator).to(device),
        audio=torch.randn(size, 1, audio.n_mels, config.audio_frames, generator=generator).to(device),
        ids=torch.arange(first_id, first_id + size),
        start=torch.zeros(size, dtype=torch.float64),
    )


def worker(options: argparse.Namespace) -> None:
    """Trains in one process of a run; rank 0 prints the measured record as JSON."""
    config = load_config(Config, options.config, options.overrides)
    world = distributed.start(config.train.device, options.threads)
    local = config.train.batch_size
    learner = Learner(
        model=build_model(config.model, audio=config.audio, seed=config.seed),
        config=replace(config, train=replace(config.train, batch_size=local * world.size)),
        world=world,
        total_steps=1_000_000,
    )
    batches = [random_batch(config, (2 * world.rank + n) * local, world.device) for n in range(2)]
    learner.fill(iter(batches), epoch=0)
    for step in range(3):
        learner.step(batches[step % 2], step)
    counter = Counter()
    if world.size > 1:
        counter.install()
        learner.step(batches[0], 3)
        counter.record("all-reduce of gradients", _flat(learner))
        dist.barrier()
    calls, sizes = dict(counter.calls), dict(counter.bytes)
    synchronise(world)
    began = time.perf_counter()
    for step in range(4, 4 + options.steps):
        learner.step(batches[step % 2], step)
    synchronise(world)
    seconds = (time.perf_counter() - began) / options.steps
    if world.is_main:
        clips = local * world.size / seconds
        print(json.dumps({"processes": world.size, "seconds_per_step": seconds, "clips_per_second": clips,
                          "calls_per_step": calls, "bytes_per_step": sizes}))  # fmt: skip
    distributed.stop()


def _flat(learner: Learner) -> torch.Tensor:
    """A tensor without storage, with as many elements as all gradients together."""
    count = sum(p.numel() for p in learner.model.query.parameters() if p.requires_grad)
    return torch.empty(count, device="meta")


def cluster(record: dict[str, Any]) -> dict[str, Any]:
    """Seconds per step spent in collectives on NODES x GPUS_PER_NODE GPUs, each with the same local batch.

    Assumptions: ring algorithms; an all-reduce moves 2 (n - 1) / n of its bytes through each GPU, an all-gather (n - 1)
    times the local bytes; reductions run over NVLink within a node and then over the network between nodes, where each
    GPU has its own link; an all-gather is limited by the network; each call costs LATENCY; nothing overlaps with
    computation (DDP hides most of the gradients' all-reduce, so this is an upper bound).
    """
    ranks = NODES * GPUS_PER_NODE
    found = {}
    for name, size in record["bytes_per_step"].items():
        latency = record["calls_per_step"][name] * LATENCY
        if "gather" in name:
            found[name] = latency + (ranks - 1) * size / NETWORK
        else:
            within = 2 * (GPUS_PER_NODE - 1) / GPUS_PER_NODE * size / NVLINK
            between = 2 * (NODES - 1) / NODES * size / GPUS_PER_NODE / NETWORK
            found[name] = latency + within + between
    total = sum(found.values())
    return {"nodes": NODES, "gpus": ranks, "seconds": found, "total_seconds": total,
            "step_seconds_for_95_percent": 19 * total}  # fmt: skip


def launch(processes: int, options: argparse.Namespace) -> dict[str, Any]:
    line = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    line += ["-m", "benchmarks.scaling", "--worker", "--config", str(options.config), "--steps", str(options.steps)]
    line += ["--threads", str(options.threads), *options.overrides]
    done = subprocess.run(line, stdout=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    if done.returncode:
        raise ChildProcessError(f"the run with {processes} processes failed; its output is above")
    return json.loads(done.stdout.splitlines()[-1])


@command("benchmarks.scaling", NotFiniteError, ConfigError)
def main(arguments: list[str] | None = None) -> None:
    options = parse(arguments)
    if options.worker:
        worker(options)
        return
    load_config(Config, options.config, options.overrides)  # a mistake ends the command before any process starts
    records = [launch(processes, options) for processes in options.processes]
    base = records[0]["clips_per_second"] / records[0]["processes"]
    for record in records:
        record["efficiency"] = ratio(record["clips_per_second"] / record["processes"], base, "the efficiency")
    result = {
        "environment": environment(),
        "setting": {"config": options.config.name, "overrides": options.overrides, "steps": options.steps},
        "records": records,
    }
    if records[-1]["bytes_per_step"]:
        result["cluster"] = cluster(records[-1])
    publish(result, options.json)


if __name__ == "__main__":
    sys.exit(main())
