"""Runs every benchmark at the sizes that the documents report.

    python -m benchmarks.run_all --out results/

Each benchmark writes its JSON (and chart) into the folder when it ends; if one fails, the others still run and its name
is printed at the end. `python -m benchmarks.report results/` then updates the tables in docs/performance.md and
docs/first_hour.md.

    python -m benchmarks.run_all --gpu-minutes 25 --out results/

measures, on a GPU that is available for only so long, what is worth most: doctor, the tests that need a GPU, the
training step, decoding and selection, in this order. Every result is in the folder as soon as it is measured, and
session.json says how each part ended. With --stand-in, the same commands are rehearsed on the CPU, at sizes that take
seconds.

On a machine with a GPU, decode_gpu, decode_sweep_gpu and step_gpu are measured too. The last trains R(2+1)D-18 on clips
of 16 frames of 112 pixels in bf16, fed from JPEG shards of the demo corpus.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from benchmarks.tools.options import positive
from common.phases import introduce
from common.terminal import command, print_error, printable


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("results"), help="folder for the JSON and charts")
    parser.add_argument("--videos", type=Path, help="folder of videos for decode (default: a generated demo corpus)")
    parser.add_argument(
        "--data",
        type=Path,
        help="prepared demo corpus for step, checksums, dataset_scaling and embed (default: the one of `make train`)",
    )
    parser.add_argument("--only", nargs="+", metavar="NAME", help="names of the results to make (default: all)")
    parser.add_argument("--gpu-minutes", type=positive, metavar="M", help="measure on the GPU only, within M minutes")
    parser.add_argument("--stand-in", action="store_true", help="with --gpu-minutes, rehearse on the CPU")
    options = parser.parse_args(arguments)
    if options.stand_in and not options.gpu_minutes:
        parser.error("--stand-in is only for --gpu-minutes")
    if options.only and options.gpu_minutes:
        parser.error("--gpu-minutes chooses what to measure itself: leave out --only")
    return options


if __name__ == "__main__":
    introduce("benchmarks.run_all", "running the benchmarks one after the other", parse)

import torch

from benchmarks.tools.gpu_session import STEP, gpu_parts, run_session
from common.environment import ROOT

PLOTTED = ("sampling_38400x3840", "decode", "decode_sweep", "decode_gpu", "decode_sweep_gpu")
"""Results that have a chart."""
VIDEOS, SHARDS = Path("data/demo/videos"), Path("data/demo/shards_jpeg_144")
"""The demo corpus that step_gpu trains on, relative to the repository's root."""


def commands(options: argparse.Namespace) -> dict[str, list[str]]:
    """Name of each result -> the benchmark that makes it, and its arguments."""
    videos = ["--videos", str(options.videos)] if options.videos else []
    step = ["step", "--rounds", "150", "--against", "sampler.name=fifo"]
    return {
        "sampling_38400x3840": ["sampling", "--sizes", "38400x3840", "--seeds", "5", "--slow-repeats", "1"],
        "sampling_step": ["sampling", "--step"],
        "decode": ["decode", *videos],
        "decode_sweep": ["decode_sweep", *videos],
        "spectrogram": ["spectrogram"],
        "step": [*step, "--", f"data.path={options.data}"] if options.data else step,
        "checksums": ["checksums", *([f"data.path={options.data}"] if options.data else [])],
        "dataset_scaling": ["dataset_scaling", *(["--data", str(options.data)] if options.data else [])],
        "node_scaling": [
            *("dataset_scaling", "--node", "--rounds", "3"),
            *(["--data", str(options.data)] if options.data else []),
            *(["--prepare", str(options.videos)] if options.videos else []),
        ],
        "embed": ["embed", *(["--data", str(options.data)] if options.data else [])],
        "search": ["search"],
        "scaling": ["scaling"],
        "first_hour": ["first_hour"],
    }


def gpu_commands(options: argparse.Namespace) -> dict[str, list[str]]:
    """Like `commands`, for the results that need a GPU."""
    videos = ["--videos", str(options.videos)] if options.videos else []
    on_gpu = ["--device", "cuda", "--batch-size", "128", "--clips", "4096", *videos]
    step = ["step", "--config", "configs/kinetics_sounds.yaml", "--against", "sampler.name=fifo", "--"]
    return {
        "decode_gpu": ["decode", *on_gpu],
        "decode_sweep_gpu": ["decode_sweep", "--device", "cuda", "--clips", "4096", *videos],
        "step_gpu": [*step, f"data.path={SHARDS}", *STEP],
    }


def prepare_for_gpu() -> None:
    """Makes the demo corpus and its JPEG shards unless they exist. A failure becomes visible in benchmarks.step."""
    demo = ["pipeline.demo", str(VIDEOS), "--videos", "800"]
    for module in (demo, ["pipeline.prepare", str(VIDEOS), str(SHARDS), "storage.codec=jpeg"]):
        subprocess.run([sys.executable, "-m", *module], cwd=ROOT)


def measure_on_gpu(options: argparse.Namespace) -> int:
    """Measures within --gpu-minutes; returns 0 if all parts passed, 1 if not, 2 without a GPU."""
    if not (options.stand_in or torch.cuda.is_available()):
        print_error("benchmarks.run_all", "--gpu-minutes needs a GPU, and torch finds none; --stand-in rehearses")
        return 2
    out = options.out.resolve()
    corpus = out / "corpus" if options.stand_in else ROOT / VIDEOS.parent
    parts = gpu_parts(out, videos=options.videos, corpus=corpus, stand_in=options.stand_in)
    # A rehearsal must not use a GPU, even where there is one.
    environ = {"CUDA_VISIBLE_DEVICES": ""} if options.stand_in else {}
    outcomes = run_session(parts, seconds=60 * options.gpu_minutes, out=out, environ=environ)
    return int(any(outcome.status not in ("passed", "not needed") for outcome in outcomes))


@command("benchmarks.run_all")
def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    if options.gpu_minutes:
        return measure_on_gpu(options)
    every = commands(options) | (gpu_commands(options) if torch.cuda.is_available() else {})
    for name in options.only or ():
        if name not in every:
            why = "needs a GPU" if name in gpu_commands(options) else "is not known"
            print_error("benchmarks.run_all", f"--only {printable(name)} {why}; allowed: {', '.join(every)}")
            return 2
    options.out.mkdir(parents=True, exist_ok=True)
    failed = []
    for name, (module, *rest) in every.items():
        if options.only and name not in options.only:
            continue
        if name == "step_gpu":
            prepare_for_gpu()
        target = options.out.resolve() / f"{name}.json"
        # These options go first, because settings may follow a "--".
        plot = ["--plot", str(target.with_suffix(".png"))] if name in PLOTTED else []
        line = [sys.executable, "-m", f"benchmarks.{module}", "--json", str(target), *plot, *rest]
        print(f"{name}: {' '.join(line)}", flush=True)
        if subprocess.run(line, cwd=ROOT).returncode:
            failed.append(name)
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
