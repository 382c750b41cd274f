"""Tests for memory leaks: reads many batches, trains many steps, and fits a line to resident memory after the warm-up.

python -m tests.training.soak --data data/demo/shards [--batches 20000] [--steps 2000] [--out soak.json]
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from scipy.stats import t as student

from common.environment import environment
from pipeline.loader import make_loader
from settings import Config, load_config
from tests.training.kill_and_resume import finish, start
from tests.training.small_run import OVERRIDES
from training.tracking.metrics import read_metrics

SMALL = [*OVERRIDES, "train.batch_size=4", "data.threads=1", "train.threads=1"]
READINGS, WARM_UP, BLOCKS = 400, 0.25, 20
"""Number of readings of memory, the share of them that is discarded as warm-up, and the number of blocks of the fit."""


@dataclass(frozen=True)
class Slope:
    """The slope of resident memory over the number of batches or steps."""

    bytes_per_thousand: float
    standard_error: float
    """Standard error of bytes_per_thousand."""
    autocorrelation: float
    """Autocorrelation r of neighbouring blocks' residuals."""
    distinguishable: bool
    """Whether the slope differs from zero, two-sided at 5 %."""
    resident: float
    """Mean resident bytes after the warm-up."""
    readings: int


def slope(counts: np.ndarray, resident: np.ndarray) -> Slope:
    """Fits a line by least squares to means over blocks of the readings after the first quarter.

    Neighbouring readings are correlated, so a fit to single readings would understate the error. The standard error is
    the larger of two: that of autoregressive residuals, which is wider by sqrt((1 + r) / (1 - r)), and that of a random
    walk without drift, because an allocator keeps the memory it once took, and a few increases are not yet a leak. (For
    a random walk whose steps between blocks have variance v, the differences of block means have variance 2/3 v and
    the slope over n blocks has variance 6/5 v / n.)

    Args:
        counts: [n] batches or steps done, increasing.
        resident: [n] bytes.
    """
    kept = slice(int(WARM_UP * len(counts)), None)
    x, y = (np.array([block.mean() for block in np.array_split(v[kept], BLOCKS)]) for v in (counts, resident))
    x = x - x.mean()
    rate = (x @ y) / (x @ x)
    residuals = y - y.mean() - rate * x
    spread = residuals @ residuals
    r = min(max(0.0, (residuals[1:] @ residuals[:-1]) / spread), 0.95) if spread > 0 else 0.0
    autoregression = np.sqrt(spread / (BLOCKS - 2) / (x @ x) * (1 + r) / (1 - r))
    random_walk = np.sqrt(6 / 5 * 3 / 2 * np.diff(y).var(ddof=1) / BLOCKS) / np.diff(x).mean()
    error = max(autoregression, random_walk)
    return Slope(
        bytes_per_thousand=1000 * rate,
        standard_error=1000 * error,
        autocorrelation=r,
        distinguishable=bool(abs(rate) > student.ppf(0.975, BLOCKS - 2) * error),
        resident=float(resident[kept].mean()),
        readings=len(resident[kept]),
    )


def resident_bytes(pid: int | str = "self") -> int:
    """Returns the resident memory of a running process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def read_batches(data: str, batches: int) -> tuple[np.ndarray, np.ndarray]:
    """Reads epoch after epoch; returns counts of batches [n] and the resident bytes [n] at each."""
    loader = make_loader(load_config(Config, overrides=[*SMALL, f"data.path={data}"]))
    every, done, epoch, readings = max(batches // READINGS, 1), 0, 0, []
    while done < batches:
        for _ in loader.epoch(epoch):
            done += 1
            if done % every == 0:
                readings.append((done, resident_bytes()))
            if done == batches:
                break
        epoch += 1
    return tuple(np.array(readings, dtype=float).T)


def train_steps(data: str, steps: int, run_dir: Path) -> tuple[np.ndarray, np.ndarray]:
    """Runs train.py; returns counts of steps [n] and its resident bytes [n] at each line of metrics."""
    every = max(steps // READINGS, 1)
    more = [f"train.steps={steps}", "train.epochs=1000000", f"train.log_every={every}"]
    process = start(run_dir, [*SMALL, *more, "checkpoint.every_steps=100", f"data.path={data}"])
    readings, size, metrics = [], 0, run_dir / "metrics.jsonl"
    while process.poll() is None:
        now = metrics.stat().st_size if metrics.exists() else 0
        if now > size:
            size, lines = now, read_metrics(metrics)
            resident = resident_bytes(process.pid)
            # A process that has just ended has no resident memory.
            if lines and resident:
                readings.append((lines[-1]["step"], resident))
        time.sleep(0.01)
    finish(process, run_dir)
    return tuple(np.array(readings, dtype=float).T)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder of prepared shards")
    parser.add_argument("--batches", type=int, default=20_000)
    parser.add_argument("--steps", type=int, default=2_000)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    # In a separate process, so that memory freed by one of the two does not hide what the other allocates.
    with ProcessPoolExecutor(max_workers=1, mp_context=get_context("spawn")) as pool:
        loading = pool.submit(read_batches, args.data, args.batches).result()
    with tempfile.TemporaryDirectory() as folder:
        training = train_steps(args.data, args.steps, Path(folder) / "run")
    result = {"batches": args.batches, "steps": args.steps, "environment": environment()}
    result |= {"loading": asdict(slope(*loading)), "training": asdict(slope(*training))}
    if args.out:
        readings = {name: np.stack(both).tolist() for name, both in (("loading", loading), ("training", training))}
        args.out.write_text(json.dumps(result | {"readings": readings}, indent=1) + "\n")
    print(json.dumps(result, indent=1))
    return 1 if result["loading"]["distinguishable"] or result["training"]["distinguishable"] else 0


if __name__ == "__main__":
    sys.exit(main())
