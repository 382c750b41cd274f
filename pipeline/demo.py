"""A demo corpus of short videos with sound: `python -m pipeline.demo OUT [--videos 400] [--seed 0]`.

OUT gets `00000.mp4`, ... (H.264 and AAC) and `labels.csv` (path, kind, speed, split). Kinds and speeds are balanced
over the corpus and over its train and test part; see pipeline/demo_scene.py for what is seen and heard. Each file is
a function of the seed and its number; an interrupted run goes on where it ended, a finished one is left as it is.
"""

from __future__ import annotations

import argparse
import csv
import json
import multiprocessing
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from fractions import Fraction
from functools import partial
from pathlib import Path

import av
import numpy as np

from pipeline.demo_scene import FPS, HEIGHT, KINDS, SAMPLE_RATE, SPEEDS, WIDTH, render
from pipeline.prepare import available_cores
from pipeline.progress import show_progress

RECIPE = "demo.json"
VERSION = 1  # raise it when the same seed gives other videos


class DemoError(RuntimeError):
    """The corpus cannot be made there; the message says what to do."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, metavar="OUT")
    parser.add_argument("--videos", type=int, default=400, help="how many (default 400)")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    try:
        made = make_demo(args.out, videos=args.videos, seed=args.seed)
    except (DemoError, OSError) as error:
        print(f"pipeline.demo: {error}", file=sys.stderr)
        return 2
    print(f"{args.out}: {made} videos made, {args.videos - made} were there")
    return 0


def make_demo(out: Path, *, videos: int, seed: int) -> int:
    """Makes what is missing of the corpus and returns how many videos that was.

    Raises:
        DemoError: fewer than one video or a negative seed asked for, or `out` holds something else.
        OSError: the disk is full or not writable.
    """
    if videos < 1 or seed < 0:
        raise DemoError(f"--videos must be at least 1 and --seed at least 0, not {videos} and {seed}")
    _claim(out, {"version": VERSION, "videos": videos, "seed": seed})
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
    _write_text(path, json.dumps(recipe))


def _make_video(out: Path, seed: int, number: int) -> None:
    kind, speed, _ = causes(number)
    frames, sound, _ = render(kind, speed, (seed, number))
    partial_path = out / f"{_name(number)}.partial"
    write_mp4(partial_path, frames, sound)
    os.replace(partial_path, out / _name(number))


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
    partial_path = out / "labels.csv.partial"
    with open(partial_path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["path", "kind", "speed", "split"])
        for number in range(videos):
            kind, speed, split = causes(number)
            writer.writerow([_name(number), KINDS[kind], SPEEDS[speed], split])
    # An unchanged file keeps its time of change: make takes a newer one for new videos.
    if (out / "labels.csv").exists() and (out / "labels.csv").read_bytes() == partial_path.read_bytes():
        partial_path.unlink()
    else:
        os.replace(partial_path, out / "labels.csv")


def _write_text(path: Path, text: str) -> None:
    partial_path = path.with_suffix(".partial")
    partial_path.write_text(text, encoding="utf-8")
    os.replace(partial_path, path)


def _name(number: int) -> str:
    return f"{number:05d}.mp4"


if __name__ == "__main__":
    sys.exit(main())
