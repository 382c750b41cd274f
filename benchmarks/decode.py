"""Compares the throughput of our loader, from stored videos to training batches, with other libraries.

    python -m benchmarks.decode --videos FOLDER --work /tmp/corpus --json out.json --plot out.png

Every row produces the same clips (16 frames at 10 frames/s, random crop to 112 pixels, colour jitter, normalisation,
and the log-mel spectrogram of the audio) of the same source videos; only decoder_alone does nothing but decode. A row
runs in its own process; rounds are interleaved and figures are medians over rounds. Without --videos, a demo corpus is
made. With --device cuda, batches end on the GPU: our loader decodes on the GPU what it supports; the batches of other
libraries are copied there.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.tools.corpus import (
    RECIPES,
    SHARDS,
    corpus_folder,
    frames_of,
    make_corpus,
    recordings,
    shard_settings,
    usable_sources,
)
from benchmarks.tools.options import add_decode_options, positive
from common.environment import ROOT, available_cores, environment
from common.phases import introduce
from common.terminal import command, printable

PEERS = ("decord", "pyav", "torchcodec_exact", "torchcodec_approximate", "spdl")
ROWS = [
    *((peer, recipe) for recipe in ("h264_256", "h264_144", "h264_144_gop250") for peer in PEERS),
    *((peer, "mjpeg_144") for peer in PEERS if peer != "torchcodec_exact"),
    *(("ours", storage) for storage in SHARDS),
]
"""The measured (loader, storage) pairs. MJPEG has no GOPs, so exact and approximate seeking are the same for it."""
ALONE = "decoder_alone"
"""DALI decoding the same shards from memory and doing nothing else."""
OURS_NVDEC = "ours_nvdec"
"""Our loader with data.vp9_decoder=nvdec."""
OURS = ("ours", OURS_NVDEC)
GPU_ROWS = [
    *(("torchcodec_cuda", recipe) for recipe in ("h264_256", "h264_144", "h264_144_gop250")),
    *((ALONE, storage) for storage in SHARDS),
    (OURS_NVDEC, "shards_vp9_144"),
]
"""Further rows with --device cuda. NVDEC does not decode MJPEG."""


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_decode_options(parser, per="row")
    parser.add_argument("--rows", nargs="+", metavar="LOADER:STORAGE", help="only these rows, e.g. ours:shards_vp9_144")
    parser.add_argument("--frames", type=positive, default=16, help="frames per clip")
    parser.add_argument("--batch-size", type=positive, default=16, help="clips per batch")
    parser.add_argument("--workers", type=positive, default=available_cores(), help="decoding processes or threads")
    parser.add_argument("--row", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--epoch", type=int, default=0, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    for row in options.rows or ():
        loader, _, storage = row.partition(":")
        loaders, storages = (*PEERS, "torchcodec_cuda", ALONE, *OURS), (*RECIPES, *SHARDS)
        if loader not in loaders or (storage not in RECIPES and shard_settings(storage) is None):
            parser.error(
                f"--rows {printable(row)}: not LOADER:STORAGE with a loader of {', '.join(loaders)} and a storage of "
                f"{', '.join(storages)}"
            )
        if (storage in RECIPES) == (loader in (*OURS, ALONE)):
            parser.error(f"--rows {row}: {loader} reads {', '.join(SHARDS if loader in (*OURS, ALONE) else RECIPES)}")
    return options


if __name__ == "__main__" and "--row" not in sys.argv:
    introduce("benchmarks.decode", "timing loaders over the same videos", parse)

import numpy as np
import torch

from benchmarks.tools.ffmpeg import restart_with_ffmpeg_libraries
from benchmarks.tools.result import medians, publish, ratio, write
from benchmarks.tools.usage import usage
from common.finite import NotFiniteError, require_finite_figures
from settings import ClipConfig, Config, DataConfig, TrainConfig

SETTINGS = ("frames", "batch_size", "clips", "rounds", "workers", "device")
"""The options that a result records."""
WARM_UP_BATCHES = 3
"""Number of batches before the timed ones."""
BATCHES_AHEAD = 8
"""Number of batches after the timed ones: more than any loader here prefetches, so that each still has batches to load
until the clock stops."""


def config_of(options: argparse.Namespace, loader: str, storage: str) -> Config:
    """The settings of a row."""
    return Config(
        data=DataConfig(
            path=str(options.work / storage / "shards"),
            threads=options.workers,
            vp9_decoder="nvdec" if loader == OURS_NVDEC else "cpu",
            prefetch=2,
        ),
        clip=ClipConfig(frames=options.frames, fps=10, size=112),
        train=TrainConfig(batch_size=options.batch_size),
    )


def batches(loader: str, storage: str, *, options: argparse.Namespace, epoch: int) -> Iterator[Any]:
    """Batches of a loader over a storage: `options.clips` clips to time, and those before and after them."""
    config = config_of(options, loader, storage)
    wanted = options.clips + (WARM_UP_BATCHES + BATCHES_AHEAD) * options.batch_size
    if loader in OURS:
        from pipeline.loader import make_loader

        ours = make_loader(config, device=options.device)
        return ours.clips(np.resize(np.arange(len(ours.dataset)), wanted), epoch=epoch, purpose="benchmark")
    if loader == ALONE:
        from benchmarks.peers.decoder_alone import decoder_alone

        return decoder_alone(config, device=torch.device(options.device), epoch=epoch)
    from benchmarks.peers.loaders import PeerClips, data_loader, threaded_loader

    videos = recordings(options.work / storage)
    ids = np.resize(np.arange(len(videos)), wanted)
    clips = PeerClips(config=config, recordings=videos, ids=ids, epoch=epoch, decoder=loader)
    # SPDL brings its own threads; torchcodec_cuda needs them, because forked workers cannot share this process's GPU.
    return (threaded_loader if loader in ("spdl", "torchcodec_cuda") else data_loader)(clips, workers=options.workers)


def measure(loader: str, storage: str, *, options: argparse.Namespace, epoch: int) -> dict[str, float]:
    """Measures one row once, in this process: clips/s, CPU ms and kB read per clip, peak memory in MB."""
    torch.set_num_threads(1)
    source = batches(loader, storage, options=options, epoch=epoch)
    arrived = ([tensor.to(options.device) for tensor in batch[:2]] for batch in source)
    for _ in range(WARM_UP_BATCHES):
        next(arrived)
    synchronise(options.device)
    before, began, clips = usage(), time.perf_counter(), 0
    for video, _ in arrived:
        clips += len(video)
        if clips >= options.clips:
            break
    synchronise(options.device)
    seconds, used = time.perf_counter() - began, usage().since(before)
    return {
        "clips_per_second": clips / seconds,
        "cpu_ms_per_clip": 1e3 * used.cpu_seconds / clips,
        "kilobytes_read_per_clip": used.bytes_read / clips / 1e3,
        "peak_megabytes": used.peak_bytes / 1e6,
    }


def synchronise(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def measure_in_subprocess(loader: str, storage: str, *, options: argparse.Namespace, epoch: int) -> dict[str, float]:
    """Measures one row once, in its own process.

    Raises:
        RowError: the process failed (the message is the last line of its standard error), or a figure is not finite.
    """
    line = [sys.executable, "-m", "benchmarks.decode", "--row", loader, storage]
    line += ["--epoch", str(epoch), "--work", str(options.work)]
    for name in ("frames", "batch_size", "clips", "workers", "device"):
        line += [f"--{name.replace('_', '-')}", str(getattr(options, name))]
    done = subprocess.run(line, capture_output=True, text=True)
    if done.returncode:
        raise RowError(f"{loader} on {storage}: {(done.stderr.strip().splitlines() or ['no message'])[-1]}")
    figures = json.loads(done.stdout.splitlines()[-1])
    try:
        require_finite_figures(figures, f"{loader} on {storage}: the figures")
    except NotFiniteError as error:
        raise RowError(str(error)) from None
    return figures


class RowError(RuntimeError):
    """A row cannot be measured; the message is for the user."""


Runs = dict[tuple[str, str], list[dict[str, float]]]


def all_rows(rows: list[tuple[str, str]], *, options: argparse.Namespace) -> Iterator[list[dict[str, Any]]]:
    """The `records` after each of the interleaved rounds; a row that fails reports the error and is not run again."""
    found: Runs = {row: [] for row in rows}
    failed: dict[tuple[str, str], str] = {}
    for epoch in range(options.rounds):
        for row in (row for row in rows if row not in failed):
            try:
                found[row].append(measure_in_subprocess(*row, options=options, epoch=epoch))
            except RowError as error:
                failed[row] = str(error)
            print(f"round {epoch + 1}: {' '.join(row)}: {failed.get(row) or found[row][-1]}", file=sys.stderr)
        yield records(found, failed, workers=options.workers)


def records(found: Runs, failed: dict[tuple[str, str], str], *, workers: int) -> list[dict[str, Any]]:
    """One record per row, with the medians over its runs."""
    made = []
    for row, runs in found.items():
        record: dict[str, Any] = {"loader": row[0], "storage": row[1], "workers": workers}
        if row in failed:
            record["failed"] = failed[row]
        else:
            rates = [run["clips_per_second"] for run in runs]
            record |= medians(runs) | {"clips_per_second_range": [min(rates), max(rates)]}
        made.append(record)
    return made


def storage_quality(sources: list[Path], work: Path, names: set[str]) -> dict[str, dict[str, float]]:
    """For each stored form: kB per second of video, and PSNR of the luma against the source scaled to that size."""
    return {name: _quality(sources, work / name, name) for name in sorted(names)}


def _quality(sources: list[Path], folder: Path, name: str) -> dict[str, float]:
    from benchmarks.tools.quality import psnr_to_source, shard_frames

    if shard_settings(name) is not None:
        stored, seconds, size = shard_frames(folder / "shards", count=16)
        fps = 10.0
    else:
        videos = recordings(folder)
        fps = RECIPES[name].fps or 25.0
        stored = [frames_of(video.video, fps=fps, count=16) for video in videos]
        seconds, size = sum(v.seconds for v in videos), sum(v.video.stat().st_size for v in videos)
    values = [psnr_to_source(source, frames, fps=fps) for source, frames in zip(sources, stored, strict=True)]
    return {"kilobytes_per_second": size / seconds / 1e3, "psnr_db": statistics.median(values)}


def comparisons(records: list[dict[str, Any]]) -> dict[str, Any]:
    """Ratios of clips/s: our loader on each of our storages to the fastest peer on its storage, and to decoding alone.

    Returns:
        Comparison -> `fastest_peer`, and `ratio` (our storage -> ratio).
    """
    done = [record for record in records if "failed" not in record]
    ours = {record["storage"]: record["clips_per_second"] for record in done if record["loader"] == "ours"}
    alone = {record["storage"]: record["clips_per_second"] for record in done if record["loader"] == ALONE}
    peers = [record for record in done if record["loader"] not in (*OURS, ALONE)]
    kinds = {
        "files_as_people_have_them": ["h264_256"],
        "same_size_h264": ["h264_144", "h264_144_gop250"],
        "same_size_any_storage": ["h264_144", "h264_144_gop250", "mjpeg_144"],
    }
    found = {}
    for kind, storages in kinds.items():
        rows = [record for record in peers if record["storage"] in storages]
        if rows and ours:
            best = max(rows, key=lambda record: record["clips_per_second"])
            ratios = {s: ratio(rate, best["clips_per_second"], f"{kind}: the ratio of {s}") for s, rate in ours.items()}
            found[kind] = {"fastest_peer": f"{best['loader']} on {best['storage']}", "ratio": ratios}
    if alone:
        ratios = {s: ratio(rate, alone[s], f"{ALONE}: the ratio of {s}") for s, rate in ours.items() if s in alone}
        found["decoding_alone"] = {"fastest_peer": ALONE, "ratio": ratios}
    return found


@command("benchmarks.decode", NotFiniteError, subprocess.CalledProcessError)
def main(arguments: list[str] | None = None) -> None:
    options = parse(arguments)
    options.work = options.work.resolve()
    options.work.mkdir(parents=True, exist_ok=True)
    if options.row:
        print(json.dumps(measure(*options.row, options=options, epoch=options.epoch)))
        return
    every = ROWS + (GPU_ROWS if options.device == "cuda" else [])
    rows = [tuple(row.split(":")) for row in options.rows] if options.rows else every
    sources = usable_sources(options.videos or make_demo_videos(options.work), seconds=options.frames / 10)
    options.work = corpus_folder(options.work, sources)
    names = {storage for _, storage in rows}
    make_corpus(sources, options.work, sorted(names))
    setting = {"videos": len(sources)} | {name: getattr(options, name) for name in SETTINGS}
    result: dict[str, Any] = {
        "environment": environment("torchcodec", "decord", "av", "spdl-io", "nvidia-dali-cuda130"),
        "setting": setting,
        "storage": storage_quality(sources, options.work, names),
    }
    for number, found in enumerate(all_rows(rows, options=options), start=1):
        setting["rounds"] = number
        result |= {"comparisons": comparisons(found), "records": found}
        if options.json:
            # Written after every round, so that an interrupted run keeps its measurements.
            write(result, options.json)
    publish(result, None)
    if options.plot:
        from benchmarks.tools.plots import plot_loaders

        plot_loaders(result["records"], options.plot)


def make_demo_videos(work: Path) -> Path:
    """A folder of generated videos, reused by later runs."""
    folder = work / "demo"
    if not folder.is_dir():
        line = [sys.executable, "-m", "pipeline.demo", str(folder), "--videos", "32"]
        subprocess.run(line, cwd=ROOT, check=True, stdout=sys.stderr)
    return folder


if __name__ == "__main__":
    restart_with_ffmpeg_libraries()
    sys.exit(main())
