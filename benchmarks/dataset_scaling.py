"""Measures start-up time, memory and clips/s of the loader as the numbers of samples and shards grow.

    python -m benchmarks.dataset_scaling --data data/demo/shards --json out.json

A synthetic manifest repeats a prepared data set: every row points at real bytes, and every shard is a symbolic link to
a real one. Each case runs in its own process; rounds are interleaved and figures are medians over rounds.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.tools.options import positive
from common.phases import introduce
from common.terminal import command


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("data/demo/shards"), help="prepared data set to repeat")
    parser.add_argument("--clips", type=positive, default=1600, help="timed clips per case and round")
    parser.add_argument("--rounds", type=positive, default=10, help="interleaved repeats of all cases")
    parser.add_argument("--json", type=Path, help="write the result to this file")
    parser.add_argument("--case", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


if __name__ == "__main__" and "--case" not in sys.argv:
    introduce("benchmarks.dataset_scaling", "timing the loader over small and large data sets", parse)

import numpy as np

from benchmarks.tools.result import medians, publish, ratio
from benchmarks.tools.usage import usage
from common.environment import environment
from common.finite import NotFiniteError
from pipeline.plan.bad_samples import SampleError
from pipeline.shards.manifest import COLUMNS, Manifest, ManifestError
from pipeline.shards.manifest_writer import publish_manifest
from settings import Config, ConfigError, load_config

CASES = [(1_000, 1), (10_000, 1), (100_000, 1), (100_000, 10), (100_000, 100), (100_000, 1_000), (1_000_000, 1_000)]
"""The numbers (samples, shards) of each case."""


def synthesise(source: Path, target: Path, *, samples: int, shards: int) -> None:
    """Writes a data set with `samples` rows in `shards` shards, which all link to the first shard of `source`."""
    real = Manifest.open(source)
    rows = np.flatnonzero(real.shard == 0)
    chosen = np.resize(rows, samples)
    counts = (real.frames[chosen] + 1).astype(np.int64)
    start = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    gather = np.repeat(real.frame_start[chosen] - start[:-1], counts) + np.arange(start[-1])
    arrays = {name: np.asarray(getattr(real, name)[chosen]) for name in COLUMNS}
    arrays["shard"] = (np.arange(samples) * shards // samples).astype(np.int32)
    names = [f"sample-{i:07d}".encode() for i in range(samples)]
    arrays |= {
        "frame_start": start,
        "frame_offsets": np.asarray(real.frame_offsets)[gather],
        "source_start": np.arange(samples + 1, dtype=np.int64) * len(names[0]),
        "source_bytes": np.frombuffer(b"".join(names), dtype=np.uint8),
    }
    meta = json.loads((source / "manifest" / "meta.json").read_text())
    del meta["sha256"]  # of meta.json itself
    target.mkdir(exist_ok=True)
    links = [f"shard-{n:06d}.tar" for n in range(shards)]
    for name in links:
        (target / name).symlink_to((source / meta["shards"][0]).resolve())
    meta |= {"samples": samples, "label_columns": [], "shards": links}
    meta |= {name: [meta[name][0]] * shards for name in ("shard_bytes", "shard_sha256")}
    publish_manifest(target / "manifest", meta, arrays)


def measure(data: Path, clips: int) -> dict[str, float]:
    """Measures one case in this process: seconds to the first batch, clips/s of random samples, CPU time and memory."""
    from pipeline.loader import make_loader

    config = load_config(
        Config, Path(__file__).parents[1] / "configs/quickstart.yaml", [f"data.path={data}", 'data.split=""']
    )
    imported = usage().peak_bytes
    began = time.perf_counter()
    loader = make_loader(config)
    batches = loader.steps(0, sys.maxsize)  # across epochs: the smallest case has fewer than `clips` samples
    first = next(batches)
    start_up = time.perf_counter() - began
    for _ in range(4):
        next(batches)
    began, cpu, done = time.perf_counter(), time.process_time(), 0
    for batch in itertools.islice(batches, clips // len(first.ids)):
        done += len(batch.ids)
    return {
        "start_up_seconds": start_up,
        "clips_per_second": done / (time.perf_counter() - began),
        "cpu_ms_per_clip": 1e3 * (time.process_time() - cpu) / done,
        "megabytes_above_imports": (usage().peak_bytes - imported) / 1e6,
    }


def measure_in_subprocess(data: Path, clips: int) -> dict[str, float]:
    """Runs `measure` in its own process."""
    line = [sys.executable, "-m", "benchmarks.dataset_scaling", "--case", str(data), "--clips", str(clips)]
    return json.loads(subprocess.run(line, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1])


@command(
    "benchmarks.dataset_scaling",
    *(NotFiniteError, ConfigError, ManifestError, SampleError, subprocess.CalledProcessError),
)
def main(arguments: list[str] | None = None) -> None:
    options = parse(arguments)
    if options.case:
        print(json.dumps(measure(options.case, options.clips)))
        return
    runs: dict[tuple[int, int], list[dict[str, float]]] = {case: [] for case in CASES}
    with tempfile.TemporaryDirectory() as work:
        for samples, shards in CASES:
            synthesise(options.data, Path(work) / f"{samples}-{shards}", samples=samples, shards=shards)
        for number in range(options.rounds):
            # The order alternates to cancel drift of the machine's speed.
            for samples, shards in CASES if number % 2 == 0 else reversed(CASES):
                runs[samples, shards].append(measure_in_subprocess(Path(work) / f"{samples}-{shards}", options.clips))
                print(samples, shards, runs[samples, shards][-1], file=sys.stderr)
    records: list[dict[str, Any]] = []
    for (samples, shards), found in runs.items():
        # Ratios are taken within a round because the machine's speed drifts between rounds.
        pairs = zip(found, runs[CASES[0]], strict=True)
        ratios = [
            ratio(run["clips_per_second"], first["clips_per_second"], f"the speed with {samples} samples")
            for run, first in pairs
        ]
        records.append(
            {"samples": samples, "shards": shards, **medians(found), "relative_to_first": statistics.median(ratios)}
        )
    result = {
        "environment": environment("nvidia-dali-cuda130", "numpy"),
        "setting": {"clips": options.clips, "rounds": options.rounds},
        "records": records,
    }
    publish(result, options.json)


if __name__ == "__main__":
    sys.exit(main())
