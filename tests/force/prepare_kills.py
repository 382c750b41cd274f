"""Kills workers of `python -m pipeline.prepare`, or all of it, and compares the data set with the undisturbed one.

Expected: a killed worker does not change the result of the run, and a killed run is finished by the next one. The data
set is bit-identical, no file is rejected, and no process stays behind.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from tests.force.cases import Outcome, World, prepare_arguments, prepared_outcome
from tests.force.programs import Program, kill, left_over, members, run_command

KILLS_OF_WORKERS = 3
"""Kills per run. Prepare may reject a file whose worker died four times, so more kills could lead to a rejection."""
KILLS_OF_RUNS = 5
_STARTING = 0.35
"""Share of the kills that hit a worker which has just been started."""
_START_UP = 1.2
"""Time in seconds within which a worker starts, on a slow machine."""
_LIMIT = 90
"""Time in seconds within which a run must end."""


def workers(rng: random.Random, world: World) -> Outcome:
    """Kills a random worker several times within one run."""
    folder = world.scratch()
    program = run_command(prepare_arguments(world, folder / "out"), folder / "log")
    hits = kill_workers(program, folder / "out", rng, kills=KILLS_OF_WORKERS)
    detail = words_of(hits)
    if failure := _failure(program):
        return Outcome("lost", hits.total(), f"{detail}: {failure}")
    if left := left_over(program, within=5):
        kill(program)
        return Outcome("lost", hits.total(), f"{detail}: {len(left)} processes are left over")
    return prepared_outcome(world, folder / "out", tried=hits.total(), detail=detail)


def kill_workers(program: Program, out: Path, rng: random.Random, *, kills: int, at_once: bool = False) -> Counter[str]:
    """Kills a worker `kills` times, each time either as it starts or, after another sample was finished, at work.

    Args:
        at_once: kill without a random delay, so that a run of a few small files does not end before.
    """
    hits: Counter[str] = Counter()
    seen: set[int] = set()
    for _ in range(kills):
        starting = rng.random() < _STARTING
        delay = rng.uniform(0, _START_UP if starting else 0.8)
        found = _next_victim(program, out, rng, seen, starting=starting)
        if found is None:
            break
        victim, what = found
        time.sleep(0.0 if at_once else delay)
        try:
            os.kill(victim if victim in (now := _workers(program)) else rng.choice(now or [victim]), signal.SIGKILL)
        except ProcessLookupError:
            continue
        hits[what] += 1
    return hits


def _next_victim(
    program: Program, out: Path, rng: random.Random, seen: set[int], *, starting: bool
) -> tuple[int, str] | None:
    """Waits for a worker that has just been started, or for a finished sample; None if the run ends first."""
    before, known = _finished(out), seen.copy()
    while program.poll() is None:
        now = _workers(program)
        seen.update(now)
        if starting and (new := sorted(set(now) - known)):
            return rng.choice(new), "starting"
        # A sample was finished before any worker was started, so no start is to be expected: kill one at work.
        if now and _finished(out) != before:
            return rng.choice(now), "working"
        time.sleep(0.01)
    return None


def _finished(out: Path) -> set[str]:
    """Names of the samples that wait for their shard, and of the shards."""
    return {path.name for path in (*out.glob(".staging/*/*.tar"), *out.glob("shard-*.tar"))}


def _workers(program: Program) -> list[int]:
    found = []
    for pid in members(program.pid):
        try:
            line = Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            continue
        if b"workers.process import serve" in line:
            found.append(pid)
    return sorted(found)


def group(rng: random.Random, world: World) -> Outcome:
    """Kills runs of prepare, and finishes with one that is not disturbed."""
    out = world.scratch() / "out"
    hits, failure = kill_runs(rng, prepare_arguments(world, out), out.with_name("log"), world.prepare_seconds)
    if failure:
        return Outcome("lost", hits.total(), f"{words_of(hits)}: {failure}")
    return prepared_outcome(world, out, tried=hits.total(), detail=words_of(hits))


def kill_runs(rng: random.Random, arguments: Sequence[str], log: Path, seconds: float) -> tuple[Counter[str], str]:
    """Kills the process group of several runs, or one time in four only the main process; then runs to the end.

    Args:
        seconds: duration of an undisturbed run.

    Returns:
        The kills that hit, and how a run failed, or "".
    """
    hits: Counter[str] = Counter()
    for _ in range(KILLS_OF_RUNS):
        program = run_command(arguments, log)
        alone = rng.random() < 0.25
        end = time.monotonic() + rng.uniform(0, 0.9 * seconds)
        while program.poll() is None and time.monotonic() < end:
            time.sleep(0.005)
        if program.poll() is None:
            os.kill(program.pid, signal.SIGKILL) if alone else os.killpg(program.pid, signal.SIGKILL)
            hits["main process" if alone else "group"] += 1
        program.wait(_LIMIT)
        if left := left_over(program, within=10):
            kill(program)
            return hits, f"{len(left)} processes stay behind"
    failure = _failure(run_command(arguments, log))
    return hits, f"the last run: {failure}" if failure else ""


def _failure(program: Program) -> str:
    """Waits for the end of the program; returns how it failed, or "" after success."""
    try:
        code = program.wait(_LIMIT)
    except TimeoutError as error:
        kill(program)
        return f"does not end, {error}"
    return f"exit status {code}: {program.output()[-500:]}" if code else ""


def words_of(hits: Counter[str]) -> str:
    """Counts the kills in words."""
    return ", ".join(f"{count} kills: {what}" for what, count in sorted(hits.items())) or "no kill hit"
