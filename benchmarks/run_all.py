"""Runs every benchmark at the sizes whose figures the documents show: python -m benchmarks.run_all --out results/

Each writes its JSON (and chart) into the folder as it ends; one that fails is named at the end, the others still run.
Then `python -m benchmarks.report results/` puts the tables into README.md and docs/performance.md.

Where there is a GPU, decode_gpu, decode_sweep_gpu and step_gpu are measured too: the last is R(2+1)D-18 on 16 frames of
112 pixels in bf16, fed from JPEG shards of the demo corpus.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import torch

from common.environment import ROOT

PLOTTED = ("sampling_38400x3840", "decode", "decode_sweep", "decode_gpu", "decode_sweep_gpu")
VIDEOS, SHARDS = Path("data/demo/videos"), Path("data/demo/shards_jpeg_144")
"""What step_gpu reads, from the repository's root."""
STEP_GPU = (
    "model.video=r2plus1d_18",
    "train.precision=bf16",
    "train.batch_size=128",
    "pool.source=stream",
    "pool.size=2560",
    "dictionary.size=1280",
)


def commands(options: argparse.Namespace) -> dict[str, list[str]]:
    """Name of the result -> benchmark and arguments."""
    videos = ["--videos", str(options.videos)] if options.videos else []
    step = ["step", "--rounds", "150", "--against", "sampler.name=fifo"]
    return {
        "sampling_38400x3840": ["sampling", "--sizes", "38400x3840", "--seeds", "5", "--slow-repeats", "1"],
        "sampling_step": ["sampling", "--step"],
        "decode": ["decode", *videos],
        "decode_sweep": ["decode_sweep", *videos],
        "spectrogram": ["spectrogram"],
        "step": [*step, "--", f"data.path={options.data}"] if options.data else step,
        "dataset_scaling": ["dataset_scaling", *(["--data", str(options.data)] if options.data else [])],
        "scaling": ["scaling"],
    }


def gpu_commands(options: argparse.Namespace) -> dict[str, list[str]]:
    """As `commands`, of what is measured on a GPU only."""
    videos = ["--videos", str(options.videos)] if options.videos else []
    on_gpu = ["--device", "cuda", "--batch-size", "128", "--clips", "4096", *videos]
    step = ["step", "--config", "configs/kinetics_sounds.yaml", "--against", "sampler.name=fifo", "--"]
    return {
        "decode_gpu": ["decode", *on_gpu],
        "decode_sweep_gpu": ["decode_sweep", "--device", "cuda", "--clips", "4096", *videos],
        "step_gpu": [*step, f"data.path={SHARDS}", *STEP_GPU],
    }


def prepare_for_gpu() -> None:
    """Makes the demo corpus and its JPEG shards, so far as they are not there; without them step.py fails."""
    demo = ["pipeline.demo", str(VIDEOS), "--videos", "800"]
    for module in (demo, ["pipeline.prepare", str(VIDEOS), str(SHARDS), "storage.codec=jpeg"]):
        subprocess.run([sys.executable, "-m", *module], cwd=ROOT)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("results"))
    parser.add_argument("--videos", type=Path, help="folder of videos for decode.py; without it a demo corpus")
    parser.add_argument(
        "--data", type=Path, help="prepared demo corpus for step.py and growth.py; without it that of `make train`"
    )
    parser.add_argument("--only", nargs="+", help="names of results")
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    failed = []
    every = commands(options) | (gpu_commands(options) if torch.cuda.is_available() else {})
    for name, (module, *rest) in every.items():
        if options.only and name not in options.only:
            continue
        if name == "step_gpu":
            prepare_for_gpu()
        target = options.out.resolve() / f"{name}.json"
        # Before the settings, which may follow a "--".
        plot = ["--plot", str(target.with_suffix(".png"))] if name in PLOTTED else []
        command = [sys.executable, "-m", f"benchmarks.{module}", "--json", str(target), *plot, *rest]
        print(f"{name}: {' '.join(command)}", flush=True)
        if subprocess.run(command, cwd=ROOT).returncode:
            failed.append(name)
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
