"""Makes the demo corpus: short videos whose images and audio have a common cause (see pipeline/demo/scene.py)."""

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
"""Name of the file in the corpus folder that records how the corpus was made."""
VERSION = 1
"""Version of the generator; increase it when a change makes the same seed give different videos."""


class DemoError(RuntimeError):
    """The corpus cannot be made in this folder; the message says what to do."""


def make_demo(out: Path, *, videos: int, seed: int) -> int:
    """Makes the missing videos of the corpus and returns their number.

    Raises:
        DemoError: `videos` or `seed` is too small, or `out` holds another corpus or other files.
        OSError: the disk is full or not writable.
    """
    if videos < 1 or seed < 0:
        raise DemoError(f"--videos must be at least 1 and --seed at least 0, not {videos} and {seed}")
    _claim_folder(out, {"version": VERSION, "videos": videos, "seed": seed})
    for unfinished in out.glob(".*.tmp"):
        unfinished.unlink()  # left by a run that was killed
    missing = [number for number in range(videos) if not (out / _name(number)).exists()]
    if missing:
        # Not fork: if FFmpeg or NumPy have started threads, a forked child can deadlock.
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(min(available_cores(), len(missing)), mp_context=context) as pool:
            done = pool.map(partial(_make_video, out, seed), missing, chunksize=4)
            for _ in show_progress(done, total=len(missing)):
                pass
    _write_labels(out, videos)
    return len(missing)


def causes(number: int) -> tuple[int, int, str]:
    """Returns (index into KINDS, index into SPEEDS, split) of the video with this number.

    Every fifth video is for testing: 5 shares no factor with the number of kinds or speeds, so the splits are balanced.
    """
    return number % len(KINDS), number // len(KINDS) % len(SPEEDS), "test" if number % 5 == 4 else "train"


def _claim_folder(out: Path, recipe: dict[str, int]) -> None:
    """Marks the folder as belonging to this corpus, so that two corpora are never mixed."""
    path = out / RECIPE
    if path.exists():
        try:
            found = json.loads(path.read_text())
        except ValueError:
            found = None
        if found != recipe:
            raise DemoError(f"{out} holds another demo corpus ({found}, not {recipe}); delete it or use another folder")
        return
    if out.exists() and any(out.iterdir()):
        raise DemoError(f"{out} is not empty and holds no demo corpus; use a new folder")
    out.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps(recipe))


def _make_video(out: Path, seed: int, number: int) -> None:
    kind, speed, _ = causes(number)
    frames, sound, _ = render(kind, speed, (seed, number))
    with replacing(out / _name(number)) as unfinished:
        write_mp4(unfinished, frames, sound)


def write_mp4(path: Path, frames: np.ndarray, sound: np.ndarray) -> None:
    """Writes an MP4 file; video and audio both start at time zero.

    Args:
        frames: uint8 [T, H, W, 3], RGB, at FPS.
        sound: float32 [n], mono, at SAMPLE_RATE.
    """
    with av.open(str(path), "w", format="mp4") as container:
        video = container.add_stream("libx264", rate=FPS, options={"preset": "veryfast", "crf": "20"})
        video.width, video.height, video.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        video.thread_count = 1  # each core already runs a worker process
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
    # An unchanged file keeps its modification time; otherwise `make` would prepare the videos again.
    if not path.exists() or path.read_text(encoding="utf-8") != text.getvalue():
        write_atomically(path, text.getvalue())


def _name(number: int) -> str:
    return f"{number:05d}.mp4"
