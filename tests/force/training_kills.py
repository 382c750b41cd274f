"""Kills training with SIGKILL at random moments, and compares the finished run with an undisturbed one.

Expected: `--resume auto` continues from an intact checkpoint, and metrics and the last checkpoint are bit-identical.
"""

from __future__ import annotations

import os
import random
import signal
import socket
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

import train  # noqa: F401 - loaded here, once, for all forked runs
from tests.force.cases import Outcome, World, require
from tests.force.programs import Program, fork_script, kill, left_over
from tests.training import kill_and_resume as kills
from tests.training.small_run import OVERRIDES

torch.set_num_threads(1)

KILLS = {1: 4, 2: 3}
"""Number of processes -> kills per run."""
_STARTING = 2.0
"""Time in seconds within which a forked run starts."""
_PEERS_END = 60
"""Time in seconds within which the other processes must end after one was killed."""
_SMALL = [*OVERRIDES, "train.batch_size=4", "train.threads=1", "data.threads=1", "train.steps=24", "train.log_every=2"]


def arguments(world: World) -> list[str]:
    """Returns the settings of the small run: 24 steps, with a checkpoint after every third."""
    return [*_SMALL, "checkpoint.every_steps=3", f"data.path={world.shards}"]


def undisturbed(world: World, processes: int) -> Path:
    """Returns the run folder of the undisturbed run."""
    return world.folder / f"run-{processes}"


def make_run(world: World, processes: int = 1) -> None:
    """Makes the shards and the undisturbed run of one process."""
    world.make_shards()
    run_dir = undisturbed(world, processes)
    if not (run_dir / "checkpoints").exists():
        program = _start(run_dir, arguments(world), processes=processes)
        require(program.wait(180) == 0, program.output())


def make_runs(world: World) -> None:
    """Makes the shards and the undisturbed run of two processes."""
    make_run(world, processes=2)


def one_process(rng: random.Random, world: World) -> Outcome:
    """Kills a run of one process several times."""
    return _kill_and_compare(rng, world, processes=1)


def two_processes(rng: random.Random, world: World) -> Outcome:
    """Kills one or both processes of a run several times; if one is killed, the other must end."""
    return _kill_and_compare(rng, world, processes=2)


def torchrun(rng: random.Random, world: World) -> Outcome:
    """Kills processes of a run under the real torchrun, which restarts them all."""
    expected, run_dir = undisturbed(world, 2), world.scratch() / "run"
    spread = kills.seconds_between_checkpoints(expected)
    try:
        hits = kills.run_with_rank_kills(
            run_dir, arguments(world), kills=4, processes=2, spread=spread, starting=20, seed=rng.getrandbits(32)
        )
    except RuntimeError as error:
        return Outcome("lost", detail=str(error)[-1000:])
    return _compared(expected, run_dir, hits)


def _kill_and_compare(rng: random.Random, world: World, *, processes: int) -> Outcome:
    expected, run_dir = undisturbed(world, processes), world.scratch() / "run"
    started: list[Program] = []

    def start(run_dir: Path, arguments: list[str]) -> Program:
        started.append(_start(run_dir, arguments, processes=processes))
        return started[-1]

    try:
        hits = kills.run_with_kills(
            run_dir,
            arguments(world),
            kills=KILLS[processes],
            spread=kills.seconds_between_checkpoints(expected),
            starting=_STARTING,
            seed=rng.getrandbits(32),
            start=start,
            kill=_kill,
        )
    except (RuntimeError, TimeoutError) as error:
        return Outcome("lost", max(len(started) - 1, 1), str(error)[-1000:])
    finally:
        for program in started:
            kill(program)
    if any(left_over(program, within=2) for program in started):
        return Outcome("lost", len(hits), "processes stay behind")
    return _compared(expected, run_dir, hits)


def _kill(program: Program, rng: random.Random) -> None:
    """Kills all processes, or one of several: the others must then end by themselves."""
    victim = rng.choice([None, *range(len(program.pids))])
    if victim is None or len(program.pids) == 1:
        return kill(program)
    os.kill(program.pids[victim], signal.SIGKILL)
    program.wait(_PEERS_END)


def _compared(expected: Path, run_dir: Path, hits: Sequence[str]) -> Outcome:
    detail = ", ".join(f"{count} while {kind}" for kind, count in sorted(Counter(hits).items()))
    different = kills.differences(expected, run_dir)
    if different:
        return Outcome("silent", len(hits), f"{detail}: the run differs in {', '.join(different[:8])}")
    return Outcome("kept", len(hits), detail)


def _start(run_dir: Path, arguments: list[str], *, processes: int = 1, **more: Any) -> Program:
    run_dir.parent.mkdir(parents=True, exist_ok=True)
    return fork_script(
        "train.py",
        ["--resume", "auto", *arguments, f"run_dir={run_dir}"],
        run_dir.with_suffix(".log"),
        ranks=processes,
        port=_free_port(),
        **more,
    )


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
