"""Measures start-up time, memory and clips/s of the loader as the numbers of samples and shards grow.

    python -m benchmarks.dataset_scaling --data data/demo/shards --json out.json

    python -m benchmarks.dataset_scaling --node --json out.json

A synthetic manifest repeats a prepared data set: every row points at real bytes, and every shard is a symbolic link to
a real one. Each case runs in its own process; rounds are interleaved and figures are medians over rounds.

With --node, 1 to 8 processes at once open data sets of up to ten million samples, select those of a split that are not
on a list, and plan steps without reading clips. Their memory is measured together: what they share counts once.
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
from common.phases import begin, introduce
from common.terminal import command


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("data/demo/shards"), help="prepared data set to repeat")
    parser.add_argument("--clips", type=positive, default=1600, help="timed clips per case and round")
    parser.add_argument("--rounds", type=positive, default=10, help="interleaved repeats of all cases")
    parser.add_argument("--node", action="store_true", help="measure the processes of one machine instead; see above")
    parser.add_argument("--prepare", type=Path, metavar="VIDEOS", help="with --node, also what preparing these costs")
    parser.add_argument("--json", type=Path, help="write the result to this file")
    parser.add_argument("--case", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


if __name__ == "__main__" and "--case" not in sys.argv:
    introduce("benchmarks.dataset_scaling", "timing the loader over small and large data sets", parse)

from benchmarks.tools.result import medians, publish, ratio
from benchmarks.tools.scale.node import BATCH, STEPS, measure_node
from benchmarks.tools.scale.preparation import measure_preparation
from benchmarks.tools.scale.synthetic import source_name, synthesise
from benchmarks.tools.usage import usage
from common.environment import environment
from common.finite import NotFiniteError
from pipeline.plan.bad_samples import SampleError
from pipeline.shards.manifest import ManifestError
from settings import Config, ConfigError, load_config

CASES = [
    *((1_000, 1), (10_000, 1), (100_000, 1), (100_000, 10), (100_000, 100), (100_000, 1_000), (1_000_000, 1_000)),
    (10_000_000, 10_000),
]
"""The numbers (samples, shards) of each case."""
NODES = [(1_000, 8), (1_000_000, 8), (10_000_000, 1), (10_000_000, 2), (10_000_000, 4), (10_000_000, 8)]
"""The numbers (samples, processes) of each case of --node."""
SHARD_SAMPLES = 256
"""Samples per shard with --node, the default of pipeline.prepare."""
LEFT_OUT = 1_000
"""Most samples that data.leave_out lists with --node."""


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


def measure_nodes(source: Path, rounds: int) -> dict[str, Any]:
    """The result of --node."""
    records: list[dict[str, Any]] = []
    for samples, cases in itertools.groupby(NODES, key=lambda case: case[0]):
        with tempfile.TemporaryDirectory() as work:
            data, listed = Path(work) / "shards", Path(work) / "left_out.txt"
            begin(f"making a data set of {samples:,} samples")
            synthesise(source, data, samples=samples, shards=-(-samples // SHARD_SAMPLES))
            left_out = range(0, samples, max(10, samples // LEFT_OUT))
            listed.write_text("".join(f"{source_name(row)}\n" for row in left_out))
            sizes = {path.stem: path.stat().st_size / 1e6 for path in data.glob("manifest/*/*.npy")}
            for _, processes in cases:
                begin(f"opening {samples:,} samples in {processes} processes")
                overrides = ["data.split=train", f"data.leave_out={listed}"]
                found = [measure_node(data, processes=processes, overrides=overrides) for _ in range(rounds)]
                print(samples, processes, found, file=sys.stderr)
                record = {"samples": samples, "processes": processes, **medians(found)}
                record |= {"manifest_megabytes": sum(sizes.values()), "frame_offsets_megabytes": sizes["frame_offsets"]}
                records.append(record)
    setting = {"rounds": rounds, "clips_per_process": BATCH, "steps": STEPS, "shard_samples": SHARD_SAMPLES}
    return {"environment": environment("numpy"), "setting": setting, "records": records}


@command(
    "benchmarks.dataset_scaling",
    *(NotFiniteError, ConfigError, ManifestError, SampleError, subprocess.CalledProcessError),
)
def main(arguments: list[str] | None = None) -> None:
    options = parse(arguments)
    if options.case:
        print(json.dumps(measure(options.case, options.clips)))
        return
    if options.node:
        prepared = measure_preparation(options.prepare) if options.prepare else None
        publish(measure_nodes(options.data, options.rounds) | {"preparation": prepared}, options.json)
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
