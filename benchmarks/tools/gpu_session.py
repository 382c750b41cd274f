"""Measures on a rented GPU what is worth most, within a given time: the parts behind `run_all --gpu-minutes`.

The parts run in the order of their worth, each as a process of its own that is ended when the time is over. The
results of a part are in the folder as soon as it ends, and session.json says after every part how each ended, so a
session that is cut off keeps everything up to there. With `stand_in`, the same parts run on the CPU at sizes that take
seconds: a rehearsal, after which a mistake in a command does not cost time on a GPU.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.tools.result import write
from common.environment import ROOT, environment
from common.phases import begin

STEP = (
    "model.video=r2plus1d_18",
    "train.precision=bf16",
    "train.batch_size=128",
    "pool.source=stream",
    "pool.size=2560",
    "dictionary.size=1280",
)
"""Settings of the timed training step on top of configs/kinetics_sounds.yaml."""
STAND_IN_STEP = (
    "train.device=cpu",
    "train.precision=fp32",
    "model.video=tiny",
    "model.audio=tiny",
    "clip.frames=4",
    "clip.size=32",
    "train.batch_size=4",
    "pool.size=8",
    "dictionary.size=4",
)
"""What replaces them in a rehearsal."""
GPU_TESTS = (
    "tests/pipeline/load/test_gpu.py",
    "tests/sampler/test_on_a_gpu.py",
    "tests/training/test_on_a_gpu.py",
    "tests/training/test_precision.py",
    "tests/model/test_batchnorm.py",
    "tests/pipeline/load/test_audio_augment.py",
)
"""The files with tests that run only on a GPU."""
LOG_FOLDER = "logs"
"""Folder within the results that holds the output of each part, NAME.txt."""
_END_SECONDS = 10.0
"""Time that a part has to end after SIGTERM."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """One part of a session.

    Args:
        name: name of the part, and of the JSON that it writes.
        arguments: what follows `python -m`.
        most_seconds: the part is ended after this time, even if more is left.
        makes: the last file of what a part makes for later ones; the part is skipped if it is there. None if the part
            is a measurement.
    """

    name: str
    arguments: Sequence[str]
    most_seconds: float
    makes: Path | None = None


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a part ended."""

    name: str
    command: str
    status: str
    """passed, failed (exit status N), ended after N s, skipped (no time was left) or not needed."""
    seconds: float


def gpu_parts(out: Path, *, videos: Path | None, corpus: Path, stand_in: bool) -> list[Part]:
    """The parts of a session, the most valuable first.

    Args:
        out: folder for the results.
        videos: folder of videos for decode; None makes a demo corpus.
        corpus: folder that keeps the demo corpus and its shards, for the training step.
        stand_in: whether to rehearse on the CPU, at sizes that take seconds.
    """
    device = ["--device", "cpu" if stand_in else "cuda"]
    if stand_in:
        videos = corpus / "videos"
    of_videos = [*(["--videos", str(videos)] if videos else []), "--work", str(corpus / "benchmark")]
    shards = corpus / "shards_jpeg_144"
    demo = ["pipeline.demo", str(corpus / "videos"), "--videos", "16" if stand_in else "800"]
    prepare = ["pipeline.prepare", str(corpus / "videos"), str(shards), "storage.codec=jpeg"]
    few = ["--rounds", "2", "--steps", "1"] if stand_in else []
    step = ["benchmarks.step", "--config", "configs/kinetics_sounds.yaml", "--against", "sampler.name=fifo", *few]
    settings = ["--", f"data.path={shards}", *STEP, *(STAND_IN_STEP if stand_in else ())]
    rows = ["--rows", "ours:shards_jpeg_144", "decoder_alone:shards_jpeg_144"] if stand_in else []
    clips = ["--clips", "8", "--rounds", "1"] if stand_in else ["--clips", "4096"]
    batch = ["--batch-size", "4" if stand_in else "128"]
    sampling = ["benchmarks.sampling", *device, "--seeds", "1" if stand_in else "5", "--slow-repeats", "1"]

    def result(name: str) -> list[str]:
        return ["--json", str(out / f"{name}.json")]

    return [
        Part(name="doctor", arguments=["pipeline.doctor"], most_seconds=90),
        Part(name="tests", arguments=["pytest", "-q", *GPU_TESTS[1 : 2 if stand_in else None]], most_seconds=300),
        Part(name="videos", arguments=demo, most_seconds=120, makes=corpus / "videos" / "labels.csv"),
        Part(name="shards", arguments=prepare, most_seconds=120, makes=shards / "manifest" / "meta.json"),
        Part(name="step_gpu", arguments=[*step, *result("step_gpu"), *settings], most_seconds=300),
        Part(
            name="decode_gpu",
            arguments=["benchmarks.decode", *device, *clips, *batch, *rows, *of_videos, *result("decode_gpu")],
            most_seconds=480,
        ),
        Part(
            name="sampling_gpu",
            arguments=[*sampling, "--sizes", "256x16" if stand_in else "38400x3840", *result("sampling_gpu")],
            most_seconds=180,
        ),
        Part(
            name="step_gpu_compiled",
            arguments=[*step, *result("step_gpu_compiled"), *settings, f"train.compile={str(not stand_in).lower()}"],
            most_seconds=300,
        ),
        Part(
            name="decode_sweep_gpu",
            arguments=["benchmarks.decode_sweep", *device, *clips, *of_videos, *result("decode_sweep_gpu")],
            most_seconds=480,
        ),
    ]


def run_session(parts: Sequence[Part], *, seconds: float, out: Path, environ: Mapping[str, str]) -> list[Outcome]:
    """Runs the parts until the time is over and writes OUT/session.json after each.

    Args:
        seconds: the whole session's time.
        out: folder for session.json and the logs.
        environ: environment variables on top of those of this process.

    Raises:
        OSError: the folder cannot be written.
    """
    started = time.monotonic()
    (out / LOG_FOLDER).mkdir(parents=True, exist_ok=True)
    outcomes: list[Outcome] = []
    for part in parts:
        left = seconds - (time.monotonic() - started)
        outcome = _run(part, seconds=min(left, part.most_seconds), out=out, environ=environ)
        print(
            f"{part.name}: {outcome.status}, {outcome.seconds:.0f} s; {left - outcome.seconds:.0f} s left", flush=True
        )
        outcomes.append(outcome)
        write(_summary(outcomes, parts, seconds), out / "session.json")
    return outcomes


def _run(part: Part, *, seconds: float, out: Path, environ: Mapping[str, str]) -> Outcome:
    line = [sys.executable, "-m", *part.arguments]
    command = " ".join(["python", *line[1:]])
    if part.makes is not None and part.makes.exists():
        return Outcome(name=part.name, command=command, status="not needed", seconds=0.0)
    if seconds <= 0:
        return Outcome(name=part.name, command=command, status="skipped (no time was left)", seconds=0.0)
    begin(f"{part.name}: {command}")
    began = time.monotonic()
    with (out / LOG_FOLDER / f"{part.name}.txt").open("wb") as log:
        # A session of its own, because a part starts processes that must end with it.
        process = subprocess.Popen(
            line, cwd=ROOT, env={**os.environ, **environ}, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            status = process.wait(timeout=seconds)
            said = f"failed (exit status {status})" if status else "passed"
        except subprocess.TimeoutExpired:
            said = f"ended after {seconds:.0f} s"
        finally:
            _end(process)
    return Outcome(name=part.name, command=command, status=said, seconds=time.monotonic() - began)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ends a part and everything that it has started."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=_END_SECONDS)


def _summary(outcomes: Sequence[Outcome], parts: Sequence[Part], seconds: float) -> dict[str, Any]:
    return {
        "seconds_given": seconds,
        "parts": [asdict(outcome) for outcome in outcomes],
        "not_reached": [part.name for part in parts[len(outcomes) :]],
        "environment": environment(),
    }
