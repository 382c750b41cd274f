"""Times each command of the first hour, from a folder of videos to encoders: python -m benchmarks.first_hour

The commands run one after the other on a demo corpus, as a user would type them. Of each the result has the time until
its first word and until its end, the longest time without a word, and the files that it leaves.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from benchmarks.tools.options import positive
from common.phases import introduce
from common.terminal import command


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--videos", type=positive, default=36, help="number of videos of the demo corpus (default 36)")
    parser.add_argument("--json", type=Path, help="write the result to this file")
    return parser.parse_args(arguments)


COMMANDS = (
    "doctor",
    "demo videos --videos {videos}",
    "prepare videos data/mine",
    "preview data/mine --out preview.png",
    "train --config configs/mine.yaml --resume auto",
    "evaluate --checkpoint runs/mine --protocol retrieval --data data/mine split=all",
    "report runs/mine --out report",
    "explore runs/mine --data data/mine",
    "export runs/mine encoders --no-onnx",
    "embed runs/mine videos embeddings",
    "index embeddings index",
)
"""What follows ./cmacc, in a folder that is empty at first."""

if __name__ == "__main__":
    introduce("benchmarks.first_hour", "timing the commands of the first hour", parse)

import os
import shlex
import subprocess
import tempfile
import time
from itertools import pairwise
from typing import Any

from benchmarks.tools.result import ResultError, publish
from benchmarks.tools.usage import usage
from common.environment import ROOT, environment
from common.finite import NotFiniteError
from common.phases import begin


def measure(program: list[str], folder: Path) -> dict[str, Any]:
    """Runs a program in `folder`, whose output goes into a pipe, and returns its figures.

    Raises:
        ResultError: it fails.
    """
    before = _files(folder)
    start = time.perf_counter()
    process = subprocess.Popen(program, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert process.stdout is not None
    moments, output, first_cpu = [start], b"", 0.0
    while part := os.read(process.stdout.fileno(), 1 << 16):
        if len(moments) == 1:
            first_cpu = usage(process.pid).cpu_seconds
        moments.append(time.perf_counter())
        output += part
    process.stdout.close()
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    moments.append(time.perf_counter())
    if process.returncode:
        last = output.decode(errors="replace").strip().rpartition("\n")[2]
        raise ResultError(f"{shlex.join(program)} ended with status {process.returncode}: {last}")
    return {
        "first_word_seconds": moments[1] - start,
        "first_word_cpu_seconds": first_cpu,
        "seconds": moments[-1] - start,
        "cpu_seconds": used.ru_utime + used.ru_stime,
        "longest_silence_seconds": max(after - one for one, after in pairwise(moments)),
        "lines": output.count(b"\n"),
        "leaves": _grouped(before, _files(folder)),
    }


def _files(folder: Path) -> dict[Path, tuple[int, int]]:
    """Path of each file below `folder` -> (size in bytes, time of its last change)."""
    found = ((path.relative_to(folder), path.stat()) for path in folder.rglob("*") if path.is_file())
    return {path: (status.st_size, status.st_mtime_ns) for path, status in found}


def _grouped(before: dict[Path, tuple[int, int]], after: dict[Path, tuple[int, int]]) -> list[dict[str, Any]]:
    """The new and changed files: those of a new folder together, others alone."""
    old = {parent for path in before for parent in path.parents}
    groups: dict[Path, list[int]] = {}
    for path, status in sorted(after.items()):
        if before.get(path) == status:
            continue
        # The folders from the outermost one inwards; data/ and runs/ only hold those that a command makes.
        outer = [parent for parent in reversed(path.parents) if parent.name and str(parent) not in ("data", "runs")]
        group = next((parent for parent in outer if parent not in old), path)
        groups.setdefault(group, []).append(status[0])
    return [
        {"path": str(path) if path in after else f"{path}/", "files": len(sizes), "megabytes": sum(sizes) / 1e6}
        for path, sizes in groups.items()
    ]


@command("benchmarks.first_hour", NotFiniteError, ResultError)
def main(arguments: list[str] | None = None) -> None:
    options = parse(arguments)
    records = []
    with tempfile.TemporaryDirectory() as folder:
        for line in COMMANDS:
            text = line.format(videos=options.videos)
            begin(f"./cmacc {text}")
            words = [str(ROOT / word) if word.startswith("configs/") else word for word in shlex.split(text)]
            program = [sys.executable, str(ROOT / "cmacc"), *words]
            records.append({"command": text, **measure(program, Path(folder))})
    publish({"environment": environment(), "videos": options.videos, "records": records}, options.json)


if __name__ == "__main__":
    sys.exit(main())
