"""Kills a training run at random moments, restarts it, and compares the result with that of an uninterrupted run.

    python -m tests.training.kill_and_resume --config configs/quickstart.yaml --kills 20 [--processes 2] [key=value ...]

With several processes, each kill hits one of them and torchrun restarts all (--max-restarts). A run needs checkpoints
between the kills: with checkpoint.every_steps=20, a run of 500 steps has enough for 20 kills.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from training.checkpoint import find, read
from training.tracking.metrics import read_metrics

ROOT = Path(__file__).resolve().parents[2]
TIMING = re.compile(r"(seconds|samples_per_second|data_wait)(_min|_max|_max_rank)?$")


def command(run_dir: Path, arguments: list[str], *, processes: int = 1, restarts: int = 0) -> list[str]:
    """Returns the command line that starts or resumes the run in `run_dir`."""
    launcher = [sys.executable]
    if processes > 1:
        launcher += ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
        launcher += [f"--max-restarts={restarts}"]
    return [*launcher, "train.py", "--resume", "auto", *arguments, f"run_dir={run_dir}"]


def start(run_dir: Path, arguments: list[str], **kwargs: int) -> subprocess.Popen[bytes]:
    """Starts a run in its own process group; its output is appended to `run_dir.log`."""
    run_dir.parent.mkdir(parents=True, exist_ok=True)
    with open(run_dir.with_suffix(".log"), "ab") as log:
        return subprocess.Popen(
            command(run_dir, arguments, **kwargs), cwd=ROOT, stdout=log, stderr=log, start_new_session=True
        )


def saved(run_dir: Path) -> list[str]:
    """Returns the names of the existing checkpoints, which change whenever the run saves."""
    return sorted(path.name for path in (run_dir / "checkpoints").glob("step-*.pt"))


def wait_for_moment(
    process: subprocess.Popen[bytes], run_dir: Path, rng: random.Random, *, spread: float, starting: float
) -> str:
    """Waits for a random moment and returns its kind, or "" if the run ended first.

    One moment in five is within the first `starting` seconds, while the run starts or resumes. The others follow the
    next checkpoint: either while one is being written (for a small model, where that is too short to see, just after
    it) or up to `spread` seconds later. So a run makes progress even if it is killed often.
    """
    kind = rng.choices(["starting", "writing", "training"], weights=[1, 2, 2])[0]
    before, started, moved_at = saved(run_dir), time.monotonic(), None
    extra = rng.uniform(0, starting if kind == "starting" else spread)
    while process.poll() is None:
        now = time.monotonic()
        if moved_at is None and (kind == "starting" or saved(run_dir) != before):
            moved_at = started if kind == "starting" else now
        if kind == "writing":
            writing = moved_at is not None and any((run_dir / "checkpoints").glob(".*.tmp"))
            if writing or len(set(saved(run_dir)) - set(before)) > 1:
                return kind
        elif moved_at is not None and now - moved_at > extra:
            return kind
        time.sleep(0.002)
    return ""


def kill(process: subprocess.Popen[bytes], rng: random.Random) -> None:
    """Kills a run with SIGKILL, and all its processes with it."""
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def run_with_kills(
    run_dir: Path,
    arguments: list[str],
    *,
    kills: int,
    spread: float,
    starting: float = 8.0,
    seed: int = 0,
    start: Callable[..., Any] = start,
    kill: Callable[[Any, random.Random], None] = kill,
) -> list[str]:
    """Kills the run `kills` times with SIGKILL, then lets it finish; returns the kinds of the kills that hit it.

    Args:
        start, kill: as the functions of these names; for runs that are started in another way.
    """
    rng, hits = random.Random(seed), []
    for _ in range(kills):
        process = start(run_dir, arguments)
        kind = wait_for_moment(process, run_dir, rng, spread=spread, starting=starting)
        if not kind:
            break
        kill(process, rng)
        hits.append(kind)
    finish(start(run_dir, arguments), run_dir)
    return hits


def run_with_rank_kills(
    run_dir: Path,
    arguments: list[str],
    *,
    kills: int,
    processes: int,
    spread: float,
    starting: float = 8.0,
    seed: int = 0,
) -> list[str]:
    """Kills one of torchrun's processes `kills` times; torchrun restarts them all. Returns the kinds of the kills."""
    rng, hits = random.Random(seed), []
    # Two spare restarts: on a busy machine a restart may fail to connect, which is not what is tested.
    agent = start(run_dir, arguments, processes=processes, restarts=kills + 2)
    while len(hits) < kills:
        kind = wait_for_moment(agent, run_dir, rng, spread=spread, starting=starting)
        if not kind:
            break
        workers = subprocess.run(["pgrep", "-P", str(agent.pid)], capture_output=True, text=True).stdout.split()
        if workers:
            os.kill(int(rng.choice(workers)), signal.SIGKILL)
            hits.append(kind)
    finish(agent, run_dir)
    return hits


def finish(process: subprocess.Popen[bytes], run_dir: Path) -> None:
    """Waits until the run ends; raises RuntimeError with the end of its log if it failed."""
    if process.wait() != 0:
        log = run_dir.with_suffix(".log").read_text(errors="replace")
        raise RuntimeError(f"the run in {run_dir} ended with status {process.returncode}:\n{log[-3000:]}")


def differences(one: Path, other: Path) -> list[str]:
    """Returns the names of the tensors and metrics in which two finished runs differ in any bit."""
    states = [read(find(run)) for run in (one, other)]
    found = _compare(states[0], states[1], "")
    logs = [
        [{k: v for k, v in line.items() if not TIMING.search(k)} for line in lines]
        for lines in (read_metrics(run / "metrics.jsonl") for run in (one, other))
    ]
    if len(logs[0]) != len(logs[1]):
        found.append(f"metrics.jsonl: {len(logs[0])} and {len(logs[1])} lines")
    for left, right in zip(*logs, strict=False):
        found += [f"step {left['step']}: {k}" for k in left if str(left[k]) != str(right.get(k))]
    return found


def seconds_between_checkpoints(run_dir: Path) -> float:
    """Returns a finished run's mean time between checkpoints, from the step times in its metrics."""
    state, lines = read(find(run_dir)), read_metrics(run_dir / "metrics.jsonl")
    pace = statistics.median(line["step_seconds"] for line in lines if "step_seconds" in line)
    return pace * state["config"]["checkpoint"]["every_steps"]


def _compare(one: Any, other: Any, name: str) -> list[str]:
    if isinstance(one, torch.Tensor):
        return [] if torch.equal(one, other) else [name]
    if isinstance(one, dict):
        if one.keys() != other.keys():
            return [f"{name}: different keys"]
        return [line for key in one for line in _compare(one[key], other[key], f"{name}/{key}")]
    if isinstance(one, list | tuple):
        return [line for i, (a, b) in enumerate(zip(one, other, strict=True)) for line in _compare(a, b, f"{name}/{i}")]
    return [] if one == other or name.endswith("/run_dir") else [f"{name}: {one} and {other}"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0, help="seed of the random moments at which the run is killed")
    parser.add_argument("--out", type=Path, default=Path("runs/kill-and-resume"))
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    args = parser.parse_intermixed_args()
    shutil.rmtree(args.out, ignore_errors=True)
    arguments = ["--config", args.config, *args.overrides]
    left_alone, killed = args.out / "left-alone", args.out / "killed"
    finish(start(left_alone, arguments, processes=args.processes), left_alone)
    how = {"kills": args.kills, "seed": args.seed, "spread": seconds_between_checkpoints(left_alone)}
    if args.processes == 1:
        hits = run_with_kills(killed, arguments, **how)
    else:
        hits = run_with_rank_kills(killed, arguments, processes=args.processes, **how)
    found = differences(left_alone, killed)
    kinds = ", ".join(f"{count} while {kind}" for kind, count in sorted(Counter(hits).items()))
    print(f"{len(hits)} kills ({kinds}), {len(found)} differences" + "".join(f"\n  {line}" for line in found[:20]))
    return 1 if found or len(hits) < args.kills else 0


if __name__ == "__main__":
    sys.exit(main())
