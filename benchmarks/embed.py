"""Measures how much slower embedding is than the loader alone, if encoding costs nothing.

    python -m benchmarks.embed --json out.json
    python -m benchmarks.embed --run runs/mine --data data/mine --json out.json every=2

Both read the same clips of all samples, in turns and in one process: the loader by itself, and `search.embed` with
encoders that return constant vectors, up to the finished Parquet files. The result is the median ratio of neighbouring
passes. The clips come from the run, their number per row from key=value settings, as for `search.embed`.
"""

from __future__ import annotations

import argparse
import functools
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from benchmarks.tools.options import at_least
from common.phases import introduce
from common.terminal import command


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, default=Path("runs/quickstart"), help="run folder, or a checkpoint file")
    parser.add_argument("--data", type=Path, default=Path("data/demo/shards"), help="folder of prepared shards")
    parser.add_argument("--rounds", type=functools.partial(at_least, 2), default=15, help="pairs of passes, at least 2")
    parser.add_argument("--json", type=Path, help="write the result to this file")
    parser.add_argument("settings", nargs="*", metavar="key=value", help="settings, as for search.embed")
    return parser.parse_intermixed_args(arguments)


if __name__ == "__main__":
    introduce("benchmarks.embed", "timing embedding without encoders against the loader alone", parse)

import torch

from benchmarks.tools.result import median_ratio, publish, ratio
from common.environment import MissingPackage, environment
from common.finite import NotFiniteError
from common.progress import show_progress
from pipeline.plan.bad_samples import SampleError
from pipeline.shards.manifest import Manifest, ManifestError
from search.embed.sources import Job, ShardSource
from search.embed.store import EmbedError, Store
from search.encoders import TrainedEncoders, load_encoders
from search.packages import require_packages
from settings import ConfigError, load_config
from settings.search import EmbedConfig
from training.saving.files import CheckpointError


class FreeEncoders:
    """Encoders of both streams that return the same unit vector for every clip."""

    def __init__(self, dim: int) -> None:
        vector = torch.full((1, dim), dim**-0.5)
        self.query = dict.fromkeys(
            ("video", "audio"), lambda clips: SimpleNamespace(embedding=vector.expand(len(clips), -1))
        )


def passes(job: Job, dataset: Manifest) -> dict[str, Callable[[], int]]:
    """One pass over the data set for each contender; each returns the number of clips."""
    source = ShardSource(dataset, job)
    loader = source.embedder.loader
    clips = job.config.clips_per_row

    def alone() -> int:
        return sum(len(batch.ids) for batch in loader.uniform_clips(loader.ids, clips=clips))

    def embedded() -> int:
        with tempfile.TemporaryDirectory() as folder:
            store = Store(Path(folder), parts=source.parts, meta={"model": {"dim": job.encoders.dim}})
            rows = 0
            for part in source.embed(range(source.parts)):
                if part is not None:
                    store.write(part)
                    rows += len(part.sources)
            store.close()
            return rows * clips

    return {"loader": alone, "embed": embedded}


def measure(job: Job, dataset: Manifest, *, rounds: int) -> dict[str, Any]:
    """The median clips/s of each contender, and the ratio of their speeds with its standard error."""
    contenders = passes(job, dataset)
    found: dict[str, list[float]] = {name: [] for name in contenders}
    for run in contenders.values():
        run()  # fills the page cache and builds DALI's graph
    for number in show_progress(range(rounds), total=rounds, unit="pairs of passes"):
        for name in sorted(contenders, reverse=bool(number % 2)):
            began = time.perf_counter()
            clips = contenders[name]()
            found[name].append(clips / (time.perf_counter() - began))
    ratios = [
        ratio(one, other, "the ratio of clips/s") for one, other in zip(found["embed"], found["loader"], strict=True)
    ]
    return {
        "clips_per_second": {name: statistics.median(speeds) for name, speeds in found.items()},
        **median_ratio(ratios),
    }


@command(
    "benchmarks.embed",
    *(NotFiniteError, ConfigError, CheckpointError, EmbedError, ManifestError, MissingPackage, SampleError),
)
def main(arguments: list[str] | None = None) -> None:
    options = parse(arguments)
    require_packages("pyarrow")
    config = load_config(EmbedConfig, None, options.settings)
    trained = load_encoders(options.run)
    free: Any = FreeEncoders(trained.dim)
    encoders = TrainedEncoders(config=trained.config, model=free, step=trained.step, fingerprint=trained.fingerprint)
    dataset = Manifest.open(options.data)
    job = Job(encoders=encoders, config=config, device="cpu", processes=1)
    clip = trained.config.clip
    result = {
        "environment": environment("nvidia-dali-cuda130", "numpy", "pyarrow"),
        "setting": {"samples": len(dataset), "codec": dataset.storage.codec, "short_side": dataset.storage.short_side}
        | {"frames": clip.frames, "size": clip.size, "clips": config.clips_per_row, "rounds": options.rounds}
        | {"batch_size": config.batch_size, "part_rows": config.part_rows},
        **measure(job, dataset, rounds=options.rounds),
    }
    publish(result, options.json)


if __name__ == "__main__":
    sys.exit(main())
