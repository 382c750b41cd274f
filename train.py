"""Pre-trains an audio-visual model: python train.py --config configs/quickstart.yaml [key=value ...]

Runs on one CPU as it is, and under torchrun on as many processes as torchrun starts.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np
import torch

from config import Config, ConfigError, load_config
from model.encoder import build_model
from pipeline.loader import make_loader
from pipeline.order import global_order
from training import distributed
from training.checkpoint import CheckpointError, CheckpointStore
from training.faults import TrainingError, explain_out_of_memory
from training.metrics import MetricsWriter, StepTimer, Watch
from training.preemption import EXIT_PREEMPTED, Preemption
from training.run import find_start, load_start, save_state, write_run_files
from training.step import Learner


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, help="YAML file; without it, the defaults")
    parser.add_argument("--resume", default="never", help="auto (go on where the run folder ends), never, or a path")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="as in optim.lr=0.001")
    args = parser.parse_intermixed_args()
    try:
        config = load_config(Config, args.config, args.overrides)
        world = distributed.start(config.train.device, config.train.threads)
        finished = train(config, world, resume=args.resume)
    except (ConfigError, CheckpointError, TrainingError) as error:
        print(f"train.py: {error}", file=sys.stderr)
        return 2
    except torch.OutOfMemoryError as error:
        print(f"train.py: {explain_out_of_memory(config, error)}", file=sys.stderr)
        return 2
    finally:
        distributed.stop()
    return 0 if finished else EXIT_PREEMPTED


def train(config: Config, world: distributed.World, *, resume: str) -> bool:
    """Trains to the end of the run; False if it was asked to stop before (and has saved)."""
    run_dir, batch_size = Path(config.run_dir), config.train.batch_size
    loader = make_loader(config, device=str(world.device), rank=world.rank, world_size=world.size)
    fingerprint = loader.dataset.fingerprint
    total = min(config.train.epochs * len(loader), config.train.steps or sys.maxsize)
    model = build_model(config.model, audio=config.audio, seed=config.seed)
    learner = Learner(model=model, config=config, world=world, total_steps=total)

    store = CheckpointStore(
        run_dir / "checkpoints", keep=config.checkpoint.keep, milestone_every=config.checkpoint.milestone_every
    )
    start = find_start(config, resume=resume, store=store, world=world)
    step = 0
    if start is not None:
        state = load_start(start, config, fingerprint=fingerprint, device=world.device)
        learner.load_state_dict(state)
        step = state["step"]
    metrics = None
    if world.is_main:
        write_run_files(config, run_dir)
        metrics = MetricsWriter(run_dir, start_step=step)
        print(
            f"{run_dir}: step {step} of {total}, {len(loader.ids)} samples, {world.size} process(es)", file=sys.stderr
        )
    watch = Watch(total=total, start=step, shown=world.is_main)
    timer, preemption = StepTimer(), Preemption()

    while step < total and not preemption.requested:
        epoch, offset = divmod(step, len(loader))
        if offset == 0 and (epoch == 0 or config.pool.source == "epoch"):
            learner.fill(
                loader.clips(pool_ids(config, loader.ids, epoch, world), epoch=epoch, purpose="pool"), epoch=epoch
            )
        batches = loader.epoch(epoch, start_step=offset)
        for _ in range(min(len(loader) - offset, total - step)):
            asked = time.perf_counter()
            batch = next(batches)
            timer.waited(time.perf_counter() - asked)
            values = learner.step(batch, step)
            step += 1
            numbers = None
            if step % config.train.log_every == 0 or step == total:
                learner.guard.check(run_dir, rank=world.rank)
                numbers = distributed.mean_over_ranks(values) | timer.read(batch_size)
                if metrics is not None:
                    metrics.write(step - 1, {"epoch": epoch, **numbers})
            watch.advance(step, numbers)
            stopping = preemption.check()
            if world.is_main and (stopping or step == total or step % config.checkpoint.every_steps == 0):
                store.save(save_state(config, learner.state_dict(), fingerprint=fingerprint), step=step)
            if stopping:
                break
    store.wait()
    watch.close()
    if metrics is not None:
        metrics.close()
        print(f"{run_dir}: {'finished' if step == total else 'stopped'} at step {step}", file=sys.stderr)
    return step == total


def pool_ids(config: Config, ids: np.ndarray, epoch: int, world: distributed.World) -> np.ndarray:
    """This rank's share of the random clips that fill the pool, in whole global batches as they are trained."""
    batch, stream = config.train.batch_size, config.pool.source == "stream"
    wanted = 2 * config.dictionary.size + batch if stream else config.pool.size
    whole = min(-(-wanted // batch), len(ids) // batch) * batch
    chosen = ids[global_order(len(ids), seed=config.seed, epoch=epoch, purpose="pool")[:whole]]
    return chosen.reshape(-1, world.size, batch // world.size)[:, world.rank].reshape(-1)


if __name__ == "__main__":
    sys.exit(main())
