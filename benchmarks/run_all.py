"""Runs every benchmark at the sizes whose figures the documents show: python benchmarks/run_all.py --out results/

Each writes its JSON (and chart) into the folder as it ends; one that fails is named at the end, the others still run.
Then `python benchmarks/report.py results/` puts the tables into README.md and docs/performance.md.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
PLOTTED = ("sampling_38400x3840", "decode", "decode_sweep")


def commands(options: argparse.Namespace) -> dict[str, list[str]]:
    """Name of the result -> script and arguments."""
    videos = ["--videos", str(options.videos)] if options.videos else []
    step = ["step.py", "--against", "sampler.name=fifo"]
    return {
        "sampling_38400x3840": ["sampling.py", "--sizes", "38400x3840", "--seeds", "5", "--slow-repeats", "1"],
        "sampling_step": ["sampling.py", "--step"],
        "decode": ["decode.py", *videos],
        "decode_sweep": ["decode_sweep.py", *videos],
        "spectrogram": ["spectrogram.py"],
        "step": [*step, "--", f"data.path={options.data}"] if options.data else step,
        "growth": ["growth.py", *(["--data", str(options.data)] if options.data else [])],
        "scaling": ["scaling.py"],
    }


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
    for name, (script, *rest) in commands(options).items():
        if options.only and name not in options.only:
            continue
        target = options.out.resolve() / f"{name}.json"
        # Before the settings, which may follow a "--".
        plot = ["--plot", str(target.with_suffix(".png"))] if name in PLOTTED else []
        command = [sys.executable, str(HERE / script), "--json", str(target), *plot, *rest]
        print(f"{name}: {' '.join(command)}", flush=True)
        if subprocess.run(command, cwd=HERE.parent).returncode:
            failed.append(name)
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
