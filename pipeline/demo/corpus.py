"""Makes the demo corpus: short videos in which what is seen and what is heard have one cause."""

from __future__ import annotations

import csv
import io
import json
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from fractions import Fraction
from functools import partial
from pathlib import Path

import av
import numpy as np

from common.environment import available_cores
from common.files import replacing, write_atomically
from common.progress import show_progress
from pipeline.demo.scene import FPS, HEIGHT, KINDS, SAMPLE_RATE, SPEEDS, WIDTH, render

RECIPE = "demo.json"
VERSION = 1  # raise it when the same seed gives other videos


class DemoError(RuntimeError):
    """The corpus cannot be made there; the message says what to do."""


def make_demo(out: Path, *, videos: int, seed: int) -> int:
    """Makes what is missing of the corpus and returns how many videos that was.

    Raises:
        DemoError: fewer than one video or a negative seed asked for, or `out` holds something else.
        OSError: the disk is full or not writable.
    """
    if videos < 1 or seed < 0:
        raise DemoError(f"--videos must be at least 1 and --seed at least 0, not {videos} and {seed}")
    _claim(out, {"version": VERSION, "videos": videos, "seed": seed})
    for unfinished in out.glob(".*.tmp"):
        unfinished.unlink()  # left by a run that was killed
    missing = [number for number in range(videos) if not (out / _name(number)).exists()]
    if missing:
        # spawn: a child forked from a process with FFmpeg's or NumPy's threads can deadlock.
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(min(available_cores(), len(missing)), mp_context=context) as pool:
            done = pool.map(partial(_make_video, out, seed), missing, chunksize=4)
            for _ in show_progress(done, total=len(missing)):
                pass
    _write_labels(out, videos)
    return len(missing)


def causes(number: int) -> tuple[int, int, str]:
    """Kind, speed and split of a video; every fifth is a test video, and 5 shares no factor with kinds or speeds."""
    return number % len(KINDS), number // len(KINDS) % len(SPEEDS), "test" if number % 5 == 4 else "train"


def _claim(out: Path, recipe: dict[str, int]) -> None:
    """Marks the folder as this corpus's, so that a rerun never mixes two corpora."""
    path = out / RECIPE
    if path.exists():
        try:
            found = json.loads(path.read_text())
        except ValueError:
            found = None
        if found != recipe:
            raise DemoError(f"{out} holds another demo corpus ({found}, asked for {recipe}); delete it or give another")
        return
    if out.exists() and any(out.iterdir()):
        raise DemoError(f"{out} is not empty and holds no demo corpus; give a new folder")
    out.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps(recipe))


def _make_video(out: Path, seed: int, number: int) -> None:
    kind, speed, _ = causes(number)
    frames, sound, _ = render(kind, speed, (seed, number))
    with replacing(out / _name(number)) as unfinished:
        write_mp4(unfinished, frames, sound)


def write_mp4(path: Path, frames: np.ndarray, sound: np.ndarray) -> None:
    """Writes uint8 [T, H, W, 3] at FPS and mono float32 [n] at SAMPLE_RATE, both starting at zero."""
    with av.open(str(path), "w", format="mp4") as container:
        video = container.add_stream("libx264", rate=FPS, options={"preset": "veryfast", "crf": "20"})
        video.width, video.height, video.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        video.thread_count = 1  # every core has a process already
        audio = container.add_stream("aac", rate=SAMPLE_RATE, layout="mono")
        for image in frames:
            container.mux(video.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(video.encode())
        wave = av.AudioFrame.from_ndarray(sound[None], format="fltp", layout="mono")
        wave.sample_rate, wave.pts, wave.time_base = SAMPLE_RATE, 0, Fraction(1, SAMPLE_RATE)
        container.mux(audio.encode(wave))
        container.mux(audio.encode())


def _write_labels(out: Path, videos: int) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["path", "kind", "speed", "split"])
    for number in range(videos):
        kind, speed, split = causes(number)
        writer.writerow([_name(number), KINDS[kind], SPEEDS[speed], split])
    path = out / "labels.csv"
    # An unchanged file keeps its modification time: make takes a newer one for new videos.
    if not path.exists() or path.read_text(encoding="utf-8") != text.getvalue():
        write_atomically(path, text.getvalue())


def _name(number: int) -> str:
    return f"{number:05d}.mp4"
