"""Several processes of one machine that open a data set and plan its batches: their time and their memory together.

Memory is the sum of the processes' proportional set sizes (PSS): a page that several of them share counts once.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

BATCH = 32
"""Clips per process and step."""
STEPS = 200
"""Steps that are planned after the first."""


def measure_node(data: Path, *, processes: int, overrides: list[str]) -> dict[str, float]:
    """Opens the data set `data` in several processes at once, plans their first step and `STEPS` more.

    Args:
        overrides: settings KEY=VALUE, such as data.split.

    Returns:
        opening_seconds, opening_cpu_seconds (without the thread that checks a large manifest) and first_plan_seconds,
        of the slowest process; step_plan_ms, their mean in CPU time; check_seconds, from
        the end of the opening until the check of a large manifest has ended; and megabytes above the imports, of all
        processes together: after opening, after planning, and the most while the check runs.
    """
    line = [sys.executable, "-m", "benchmarks.tools.scale.node", str(data), *overrides]
    ranks = [
        subprocess.Popen(
            line,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "LOCAL_RANK": str(rank), "RANK": str(rank), "WORLD_SIZE": str(processes)},
        )
        for rank in range(processes)
    ]
    try:
        _answers(ranks)
        imported = _megabytes(ranks)
        opened = _next(ranks)
        opened_megabytes = _megabytes(ranks) - imported
        planned = _next(ranks)
        planned_megabytes = _megabytes(ranks) - imported
        for rank in ranks:
            _go(rank)
        peak = planned_megabytes
        while not select.select([ranks[0].stdout], [], [], 0.1)[0]:
            peak = max(peak, _megabytes(ranks) - imported)
        checked = _answers(ranks)
    finally:
        for rank in ranks:
            rank.kill()
            rank.communicate()
    return {
        "opening_seconds": max(one["opening"] for one in opened),
        "opening_cpu_seconds": max(one["cpu"] for one in opened),
        "opening_megabytes": opened_megabytes,
        "first_plan_seconds": max(one["first"] for one in planned),
        "step_plan_ms": sum(one["step"] for one in planned) / processes * 1e3,
        "planning_megabytes": planned_megabytes,
        "check_seconds": checked[0]["check"],
        "check_megabytes": peak,
    }


def _next(ranks: list[subprocess.Popen[str]]) -> list[dict[str, float]]:
    for rank in ranks:
        _go(rank)
    return _answers(ranks)


def _go(rank: subprocess.Popen[str]) -> None:
    assert rank.stdin is not None
    with suppress(BrokenPipeError):  # it has ended; that its answer is missing says so
        rank.stdin.write("go\n")
        rank.stdin.flush()


def _answers(ranks: list[subprocess.Popen[str]]) -> list[dict[str, float]]:
    answers = []
    for rank in ranks:
        assert rank.stdout is not None
        answers.append(json.loads(rank.stdout.readline() or "null"))
        if answers[-1] is None:
            raise subprocess.CalledProcessError(rank.wait(), rank.args)
    return answers


def _megabytes(ranks: list[subprocess.Popen[str]]) -> float:
    """Sum of the proportional set sizes; 0 for processes that have ended."""
    total = 0
    for rank in ranks:
        try:
            rows = Path(f"/proc/{rank.pid}/smaps_rollup").read_text().splitlines()
        except (FileNotFoundError, ProcessLookupError):
            continue
        total += next(int(row.split()[1]) for row in rows if row.startswith("Pss:"))
    return total * 1024 / 1e6


def _work(data: str, overrides: list[str]) -> Iterator[dict[str, float]]:
    """The work of one process; it waits after each answer until it is told to go on."""
    from pipeline.batch import Batch
    from pipeline.load.clip_loader import ClipLoader
    from pipeline.plan.batch_plan import BatchPlan
    from pipeline.shards.manifest import Manifest
    from settings import Config, load_config

    class PlansOnly(ClipLoader[Manifest]):
        """Yields the plans themselves, after it has looked up where the frames of each clip begin."""

        def _batches(self, plans: Iterator[BatchPlan]) -> Iterator[Batch]:
            for batch in plans:
                for row in batch.plan.ids:
                    self.dataset.frame_offsets[self.dataset.frame_start[row] : self.dataset.frame_start[row + 1]].sum()
                yield batch  # type: ignore[misc]

    rank, processes = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    config = load_config(
        Config, Path(__file__).parents[3] / "configs/quickstart.yaml", [f"data.path={data}", *overrides]
    )
    yield {}
    began, cpu = time.perf_counter(), time.thread_time()
    dataset = Manifest.open(data)
    loader = PlansOnly(
        config=config,
        dataset=dataset,
        fps=dataset.storage.fps,
        device="cpu",
        rank=rank,
        world_size=processes,
        batch_size=BATCH * processes,
    )
    opened = time.perf_counter()
    yield {"opening": opened - began, "cpu": time.thread_time() - cpu}
    began = time.perf_counter()
    steps = loader.steps(0, sys.maxsize)
    next(steps)
    first, cpu = time.perf_counter() - began, time.thread_time()
    for _ in range(STEPS):
        next(steps)
    yield {"first": first, "step": (time.thread_time() - cpu) / STEPS}
    if rank == 0:
        dataset.finish_check()
    yield {"check": time.perf_counter() - opened}


if __name__ == "__main__":
    for answer in _work(sys.argv[1], sys.argv[2:]):
        print(json.dumps(answer), flush=True)
        sys.stdin.readline()
