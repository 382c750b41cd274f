"""Measures how our loader's clips/s depend on the settings of storage, clips and loading.

    python -m benchmarks.decode_sweep --videos FOLDER --work /tmp/corpus --json out.json --plot out.png

Each curve changes one setting and keeps the others as in benchmarks.decode: stored short side, GOP (VP9 only), frames
per clip, batch size, threads. Each point runs in its own process; rounds are interleaved and figures are medians over
rounds.
"""

from __future__ import annotations

import argparse
import itertools
import subprocess
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.tools.options import add_decode_options
from common.phases import introduce
from common.terminal import command


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_decode_options(parser, per="point")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    introduce("benchmarks.decode_sweep", "timing our loader with different settings over the same videos", parse)

from benchmarks import decode
from benchmarks.tools.corpus import corpus_folder, make_corpus, usable_sources
from benchmarks.tools.result import medians, publish
from common.environment import environment
from common.finite import NotFiniteError
from settings import StorageConfig

SHORT_SIDES = (112, 144, 192, 256)
GOPS = (4, 8, 16, 32, 64)
FRAMES = (4, 8, 16, 32)
BATCH_SIZES = (4, 16, 64)
DEFAULTS = decode.parse([])
GOP = StorageConfig().gop


@dataclass(frozen=True, kw_only=True)
class Point:
    """One measured setting; the defaults are those of benchmarks.decode."""

    codec: str
    short_side: int = 144
    gop: int = GOP
    frames: int = DEFAULTS.frames
    batch_size: int = DEFAULTS.batch_size
    workers: int = DEFAULTS.workers

    @property
    def storage(self) -> str:
        """Name of the stored form, as benchmarks.tools.corpus.shard_settings reads it."""
        name = f"shards_{self.codec}_{self.short_side}"
        return name if self.codec == "jpeg" or self.gop == GOP else f"{name}_gop{self.gop}"


def curves() -> dict[tuple[str, str], list[Point]]:
    """The points of each curve, by (changed field, codec)."""
    cores = DEFAULTS.workers
    threads = sorted({*(2**n for n in range(8) if 2**n < cores), cores})
    changes = {"short_side": SHORT_SIDES, "gop": GOPS, "frames": FRAMES, "batch_size": BATCH_SIZES, "workers": threads}
    return {
        (field, codec): [replace(Point(codec=codec), **{field: value}) for value in values]
        for (field, values), codec in itertools.product(changes.items(), ("vp9", "jpeg"))
        if (field, codec) != ("gop", "jpeg")  # JPEG has no GOPs
    }


def measure(points: list[Point], *, work: Path, clips: int, rounds: int, device: str) -> dict[Point, dict[str, float]]:
    """Measures every point once per round and returns the medians over the rounds."""
    found: dict[Point, list[dict[str, float]]] = {point: [] for point in points}
    for epoch, point in itertools.product(range(rounds), points):
        timed_clips = max(clips, 16 * point.batch_size)  # at least 16 batches
        options = argparse.Namespace(work=work, clips=timed_clips, device=device, **asdict(point))
        found[point].append(decode.measure_in_subprocess("ours", point.storage, options=options, epoch=epoch))
        print(f"round {epoch + 1}: {point}: {found[point][-1]}", file=sys.stderr)
    return {point: medians(runs) for point, runs in found.items()}


@command("benchmarks.decode_sweep", NotFiniteError, decode.RowError, subprocess.CalledProcessError)
def main(arguments: list[str] | None = None) -> None:
    options = parse(arguments)
    work = options.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    sources = usable_sources(options.videos or decode.make_demo_videos(work), seconds=max(FRAMES) / 10)
    work = corpus_folder(work, sources)
    points = list(dict.fromkeys(itertools.chain.from_iterable(curves().values())))
    names = {point.storage for point in points}
    make_corpus(sources, work, sorted(names))
    quality = decode.storage_quality(sources, work, names)
    found = measure(points, work=work, clips=options.clips, rounds=options.rounds, device=options.device)
    records: list[dict[str, Any]] = [
        {"curve": field, "codec": codec, "value": getattr(point, field), "storage": point.storage, **found[point]}
        for (field, codec), line in curves().items()
        for point in line
    ]
    result = {
        "environment": environment("nvidia-dali-cuda130"),
        "setting": {"videos": len(sources)} | {name: getattr(options, name) for name in ("clips", "rounds", "device")},
        "storage": quality,
        "records": records,
    }
    publish(result, options.json)
    if options.plot:
        from benchmarks.tools.plots import plot_curves

        plot_curves(records, options.plot)


if __name__ == "__main__":
    sys.exit(main())
