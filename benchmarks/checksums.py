"""Measures what comparing checksums costs the loader: the same shards, read with and without the comparison.

    python -m benchmarks.checksums --json out.json
    python -m benchmarks.checksums data.path=data/demo/shards_jpeg_144 clip.frames=16 clip.size=112

Both loaders run in one process and take turns. Each timed block is preceded by untimed batches, which empty the queues
that the loader filled while it waited. The result is the median ratio of two successive blocks.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.tools.options import at_least, positive
from common.phases import introduce
from common.terminal import command


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", type=Path, default=Path("configs/quickstart.yaml"), help="YAML of settings")
    parser.add_argument(
        "--rounds", type=functools.partial(at_least, 2), default=330, help="pairs of blocks, at least 2"
    )
    parser.add_argument("--batches", type=positive, default=10, help="timed batches per block")
    parser.add_argument("--json", type=Path, help="write the result to this file")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings, as for train.py")
    return parser.parse_intermixed_args(arguments)


if __name__ == "__main__":
    introduce("benchmarks.checksums", "timing the loader with and without checksums", parse)

import numpy as np
import torch

from benchmarks.tools.result import median_ratio, publish, ratio
from common.environment import environment
from common.finite import NotFiniteError
from common.progress import show_progress
from pipeline.batch import Batch
from pipeline.loader import make_loader
from pipeline.plan.bad_samples import SampleError
from pipeline.shards.manifest import Manifest, ManifestError
from settings import Config, ConfigError, load_config

LEAD = 6
"""Number of untimed batches before a block; more than the loader prefetches."""


def batches(config: Config, *, compared: bool) -> Iterator[Batch]:
    """Training batches without end.

    Args:
        compared: whether the loader compares checksums; if not, it treats the samples like those of format 1.

    Raises:
        ConfigError: there is nothing to compare, because the shards are of format 1 or not shards.
    """
    loader = make_loader(config)
    data = loader.dataset
    if not isinstance(data, Manifest) or (data.checksum_offset < 0).any():
        raise ConfigError(
            f"{config.data.path} has samples without checksums; prepare it again with this version, in a new folder"
        )
    if not compared:
        data.checksum_offset = np.full(len(data), -1)
    return loader.steps(0, sys.maxsize)


def block(source: Iterator[Batch], count: int) -> tuple[float, float]:
    """CPU time and wall-clock time in ms per clip, over `count` batches."""
    for _ in range(LEAD):
        next(source)
    cpu, began = time.process_time(), time.perf_counter()
    clips = sum(len(batch.ids) for batch in itertools.islice(source, count))
    return 1e3 * (time.process_time() - cpu) / clips, 1e3 * (time.perf_counter() - began) / clips


def measure(config: Config, *, rounds: int, count: int) -> dict[str, Any]:
    """The median cost per clip with and without the comparison, and the ratio with its standard error."""
    sources = {compared: batches(config, compared=compared) for compared in (True, False)}
    found: dict[bool, list[tuple[float, float]]] = {True: [], False: []}
    for number in show_progress(range(rounds), total=rounds, unit="pairs of blocks"):
        for compared in (True, False) if number % 2 else (False, True):
            found[compared].append(block(sources[compared], count))
    result: dict[str, Any] = {}
    for place, name in enumerate(("cpu_ms_per_clip", "ms_per_clip")):
        with_it, without = ([pair[place] for pair in found[compared]] for compared in (True, False))
        ratios = [ratio(one, other, f"the ratio of {name}") for one, other in zip(with_it, without, strict=True)]
        result[name] = {
            "compared": statistics.median(with_it),
            "not_compared": statistics.median(without),
            **median_ratio(ratios),
        }
    return result


@command("benchmarks.checksums", NotFiniteError, ConfigError, ManifestError, SampleError)
def main(arguments: list[str] | None = None) -> None:
    options = parse(arguments)
    config = load_config(Config, options.config, options.overrides)
    result = {
        "environment": environment("nvidia-dali-cuda130", "numpy", "crc32c"),
        "setting": {"config": options.config.name, "overrides": options.overrides, "threads": torch.get_num_threads()}
        | {"rounds": options.rounds, "batches": options.batches},
        **measure(config, rounds=options.rounds, count=options.batches),
    }
    publish(result, options.json)


if __name__ == "__main__":
    sys.exit(main())
