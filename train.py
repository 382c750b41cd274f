"""Pre-trains an audio-visual model: python train.py --config configs/quickstart.yaml [key=value ...]

Started directly, it trains in one process, on a GPU if there is one and otherwise on the CPU; torchrun starts several.
"""

from __future__ import annotations

import os

from common.signals import end_on_signals, exit_status, name_of, received, recorded

if __name__ == "__main__":
    end_on_signals("train.py", terminated=75)
    # torch's warnings about a lost process hold pages of stack frames, after which nobody would find the explanation.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")

import argparse
import sys
import time
from contextlib import ExitStack, nullcontext
from itertools import islice
from pathlib import Path
from typing import NoReturn

from common.phases import begin, open_log, say
from common.terminal import command, print_error
from pipeline.shards.meta import ManifestError
from settings import Config, ConfigError, load_config
from training.options import DEFAULT_STEPS, check_files, check_names, parse_steps
from training.saving.files import CheckpointError


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, help="YAML file with settings; without it, the defaults apply")
    parser.add_argument(
        "--resume",
        default="never",
        help="auto (resume from the latest checkpoint), never (default), or a checkpoint path",
    )
    parser.add_argument(
        "--profile",
        nargs="?",
        const=DEFAULT_STEPS,
        metavar="FIRST:LAST",
        help=f"write a trace of these steps, counted from the start or resumption (by default {DEFAULT_STEPS})",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="run two steps to report memory and throughput; write nothing"
    )
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings to change, such as optim.lr=0.001")
    args = parser.parse_intermixed_args()
    args.profile = parse_steps(args.profile)
    return args


@command("train.py", ConfigError, ManifestError, CheckpointError)
def announce() -> None:
    """Finds mistakes that can be found without torch and DALI, which take seconds to import; says what follows."""
    args = parse()
    config = load_config(Config, args.config, args.overrides, check=check_names)
    samples = 0
    if os.environ.get("WORLD_SIZE", "1") == "1":
        samples = check_files(config, resume=args.resume, dry_run=args.dry_run)
    clips = f"{samples:,} samples of {config.data.where}" if samples else config.data.where
    say(f"dry run on {clips}" if args.dry_run else f"training on {clips}; writing to {config.run_dir}")
    begin("importing torch and DALI")


if __name__ == "__main__":
    open_log("train.py")
    # `command` turns mistakes into a message and an exit status.
    if status := announce():
        sys.exit(status)

from evaluation.monitor import Monitor
from model.encoder import build_model
from pipeline.load.clip_loader import ClipLoader
from pipeline.load.sets import Dataset, describe_selection, mixture_parts, select_sets
from pipeline.loader import make_loader, open_dataset
from pipeline.plan.bad_samples import SampleError
from pipeline.prepare.labels import LabelError
from pipeline.shards.mix import MixedManifest
from settings.schedule import total_steps
from training import distributed
from training.dry_run import dry_run
from training.initial.weights import InitialWeights, initial_weights
from training.memory import explain_out_of_memory, is_out_of_memory
from training.nonfinite import TrainingError
from training.pool import known_labels, pool_ids
from training.ranks.errors import RankError
from training.remote.attach import RemoteRun, remote_run
from training.remote.checkpoints import local_resume
from training.remote.places import run_folder
from training.resume import claim, fit_to_data
from training.run import Run
from training.step import Learner


@command("train.py")
def main() -> int:
    try:
        args = parse()
        config = load_config(Config, args.config, args.overrides)
        with distributed.lost_ranks_named(), ExitStack() as stack:
            world = distributed.start(config.train.device, config.train.threads, config.train.timeout_seconds)
            resume = local_resume(args.resume, world)
            remote = None if args.dry_run else stack.enter_context(remote_run(config, world, resume=resume))
            weights = initial_weights(config, world, resume="never" if args.dry_run else resume)
            dataset = open_dataset(config)
            sets = select_sets(dataset, config.data)
            for line in describe_selection(sets, config.data):
                say(line)
            samples, parts = sum(len(one.ids) for one in sets), mixture_parts(sets)
            config = fit_to_data(config, world, samples=samples, parts=parts, resume=resume)
            if args.dry_run:
                loader, learner, _ = build(config, world, dataset, weights)
                begin("making two steps")
                dry_run(config, world, loader=loader, learner=learner)
                finished = True
            else:
                finished = train(config, world, dataset, weights, resume=resume, profile=args.profile, remote=remote)
    except RankError as error:
        end_without_the_others(error)
    except (ConfigError, CheckpointError, LabelError, ManifestError, SampleError, TrainingError) as error:
        return fail(str(error))
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            distributed.say_farewell(f"{type(error).__name__}: {error}")
            raise
        return fail(explain_out_of_memory(config, error))
    # Not reached after an error: NCCL would then wait for the other processes, which wait for this one.
    distributed.stop()
    return 0 if finished else exit_status(received())


def fail(message: str) -> int:
    """Prints an error for the user, tells it to the other processes, and returns the exit status."""
    print_error("train.py", message)
    distributed.say_farewell(message.partition("\n")[0])
    return 2


def end_without_the_others(error: RankError) -> NoReturn:
    """Ends this process at once: ending in good order would wait for the other processes."""
    status = fail(str(error))
    if error.after_signal:
        status = exit_status(error.after_signal)
        print_error("train.py", f"stopped by {name_of(error.after_signal)}")
    sys.stderr.flush()
    os._exit(status)


def train(
    config: Config,
    world: distributed.World,
    dataset: Dataset | MixedManifest | None = None,
    weights: InitialWeights | None = None,
    *,
    resume: str,
    profile: range = range(0),
    remote: RemoteRun | None = None,
) -> bool:
    """Trains until the run ends; returns False if it was asked to stop earlier (it has then saved a checkpoint).

    Args:
        dataset: what `open_dataset` returned; None opens it.
        weights: what `initial_weights` returned; None reads them, if the settings name any.
        remote: what `remote_run` yielded.
    """
    weights = weights or initial_weights(config, world, resume=resume)
    loader, learner, monitor = build(config, world, dataset, weights)
    with claim(run_folder(config), world, resume=resume, locked=remote is not None):
        run = Run(
            config=config,
            world=world,
            learner=learner,
            fingerprint=loader.dataset.fingerprint,
            left_out=loader.left_out,
            weighed=loader.weighed,
            mixture=loader.mixture,
            bad_samples=loader.bad_samples,
            total_steps=learner.total_steps,
            profile=profile,
            measure=monitor.measure if monitor else None,
            measure_every=config.monitor.every_epochs * len(loader),
            labels=known_labels(config, loader.dataset),
            origin=weights.origin if weights else [],
        )
        run.resume(resume)
        with recorded() if remote else nullcontext():
            with run, distributed.lost_ranks_named():
                steps(run, loader, learner)
            if remote:
                remote.finish()
        return run.finished


def steps(run: Run, loader: ClipLoader, learner: Learner) -> None:
    """Makes the steps of a run until it ends or stops."""
    config = run.config
    batches = loader.steps(run.step, run.total_steps)
    run.measure_if_due()
    while not run.stopping:
        epoch, offset = divmod(run.step, len(loader))
        if offset == 0 and config.draws_pool(epoch):
            started = time.perf_counter()
            ids = pool_ids(config, loader.samples, epoch, run.world, mixture=loader.mixture)
            per_sample = config.clip.per_sample
            begin(f"filling the pool with {len(ids) * per_sample * run.world.size:,} clips")
            clips = loader.clips(ids, epoch=epoch, purpose="pool", per_sample=per_sample)
            learner.fill(run.until_stopped(clips), epoch=epoch)
            run.exclude(time.perf_counter() - started)
        for batch in run.batches(islice(batches, len(loader) - offset)):
            metrics = learner.step(batch, run.step)
            run.record(metrics, epoch=epoch)


def build(
    config: Config,
    world: distributed.World,
    dataset: Dataset | MixedManifest | None = None,
    weights: InitialWeights | None = None,
) -> tuple[ClipLoader, Learner, Monitor | None]:
    """Builds the parts of a run: the loader, the learner, and the monitor if `monitor.every_epochs` asks for one.

    Args:
        dataset: what `open_dataset` returned; None opens it.
        weights: weights that the encoders start from in place of random ones.
    """
    loader = make_loader(config, device=world.device, rank=world.rank, world_size=world.size, dataset=dataset)
    begin("building the model")
    model = build_model(config.model, audio=config.audio, seed=config.seed)
    if weights is not None:
        weights.give_to(model)
    learner = Learner(model=model, config=config, world=world, total_steps=total_steps(config, len(loader)))
    monitor = None
    if config.monitor.every_epochs:
        monitor = Monitor(
            config, device=world.device, rank=world.rank, world_size=world.size, gather=distributed.gather_objects
        )
    return loader, learner, monitor


if __name__ == "__main__":
    sys.exit(main())
