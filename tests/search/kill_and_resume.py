"""Kills `search.embed` at random moments, restarts it, and compares the folder with that of an uninterrupted run.

    python -m tests.search.kill_and_resume RUN SRC --kills 10 [--processes 2] [key=value ...]

One moment in four is within the first seconds, while the command starts; the others follow the next finished part. With
several processes each kill hits all of them. SRC needs more parts than kills: with part_rows=16, 320 videos have 20.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def start(arguments: list[str], out: Path, *, processes: int) -> subprocess.Popen[bytes]:
    """Starts the command in its own process group; its output is appended to `out.log`."""
    launcher = [sys.executable]
    if processes > 1:
        launcher += ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    run, src, *settings = arguments
    with open(out.with_suffix(".log"), "ab") as log:
        line = [*launcher, "-m", "search.embed", run, src, str(out), *settings]
        return subprocess.Popen(line, cwd=ROOT, stdout=log, stderr=log, start_new_session=True)


def content(out: Path) -> dict[str, str]:
    """Path of each file within `out` -> SHA-256 of its content."""
    paths = [path for path in sorted(out.rglob("*")) if path.is_file()]
    return {str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def parts(out: Path) -> int:
    """Number of finished parts."""
    return len(list(out.glob("rows-*.parquet")))


def kill_once(process: subprocess.Popen[bytes], out: Path, rng: random.Random, *, spread: float) -> str:
    """Waits for a random moment and kills the process group; returns a description, empty if the command had ended."""
    kind = rng.choices(["starting", "embedding"], weights=[1, 3])[0]
    before, began, extra = parts(out), time.monotonic(), rng.uniform(0, spread)
    while process.poll() is None:
        if kind == "embedding" and parts(out) == before:
            began = time.monotonic()
        elif time.monotonic() - began > extra:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return f"{kind}, {parts(out)} parts"
        time.sleep(0.002)
    return ""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run")
    parser.add_argument("src")
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--spread", type=float, default=3.0, help="largest time to a kill in seconds")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("settings", nargs="*")
    options = parser.parse_intermixed_args()
    arguments = [options.run, options.src, "--npy", *options.settings]
    rng = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as folder:
        whole, killed = Path(folder) / "whole", Path(folder) / "killed"
        assert start(arguments, whole, processes=1).wait() == 0, whole.with_suffix(".log").read_text()
        kills = 0
        while kills < options.kills:
            moment = kill_once(
                start(arguments, killed, processes=options.processes), killed, rng, spread=options.spread
            )
            if not moment:
                break
            kills += 1
            print(f"kill {kills}: {moment}", flush=True)
        status = start(arguments, killed, processes=options.processes).wait()
        assert status == 0, killed.with_suffix(".log").read_text()
        same = content(whole) == content(killed)
        print(f"{kills} kills, {parts(whole)} parts: {'the same bytes' if same else 'DIFFERENT'}")
        return not same


if __name__ == "__main__":
    sys.exit(main())
