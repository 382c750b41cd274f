"""Small corpora, made once a session: raw videos, and the same prepared."""

from __future__ import annotations

import csv
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from pipeline.prepare.run import prepare
from pipeline.prepare.workers import pool
from settings import Config, PrepareConfig
from settings.load import from_dict

RATE = 16000


def write_video(path: Path, frames: Iterator[np.ndarray], sound: np.ndarray | None, *, fps: int) -> None:
    """An mp4 with H.264 and AAC, from uint8 RGB frames and float PCM at 16 kHz."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        video = None
        audio = container.add_stream("aac", rate=RATE, layout="mono") if sound is not None else None
        for picture in frames:
            if video is None:
                video = container.add_stream("libx264", rate=fps, options={"preset": "ultrafast", "crf": "18"})
                video.height, video.width = picture.shape[:2]
                video.pix_fmt = "yuv420p"
                video.codec_context.thread_count = 1
            container.mux(video.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(video.encode(None))
        if audio is not None:
            for place in range(0, len(sound), 1024):
                frame = av.AudioFrame.from_ndarray(
                    sound[None, place : place + 1024].astype(np.float32), format="fltp", layout="mono"
                )
                frame.sample_rate, frame.pts, frame.time_base = RATE, place, Fraction(1, RATE)
                container.mux(audio.encode(frame))
            container.mux(audio.encode(None))


def moving_picture(rng: np.random.Generator, *, width: int, height: int, count: int) -> Iterator[np.ndarray]:
    """A coloured gradient over which a square moves."""
    x, y = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
    low, high = rng.integers(0, 128, 3), rng.integers(128, 256, 3)
    ground = low + (high - low) * ((x + y) / 2)[..., None]
    place, speed, color = rng.random(2), rng.uniform(-0.03, 0.03, 2), rng.integers(0, 256, 3)
    side = height // 4
    for i in range(count):
        picture = ground.copy()
        left, top = ((place + i * speed) % 1 * (width - side, height - side)).astype(int)
        picture[top : top + side, left : left + side] = color
        yield picture.astype(np.uint8)


@dataclass(frozen=True)
class Corpus:
    """The same videos, raw and prepared."""

    raw: Path
    labels: Path
    vp9: Path
    jpeg: Path

    def config(self, backend: str, **sections: dict[str, object]) -> Config:
        """Settings for `dali-vp9`, `dali-jpeg` or `decord`: 8 frames of 48 pixels, batches of 4."""
        data = {"path": str({"dali-vp9": self.vp9, "dali-jpeg": self.jpeg, "decord": self.raw}[backend]), "threads": 1}
        data["idle_priority"] = False  # tests share their machine
        data["loader"] = backend.partition("-")[0]
        if backend == "decord":
            data["labels"] = str(self.labels)
        tree: dict[str, dict[str, object]] = {
            "data": data,
            "clip": {"frames": 8, "size": 48},
            "train": {"batch_size": 4},
        }
        for name, section in sections.items():
            tree[name] = {**tree.get(name, {}), **section}
        return from_dict(Config, tree)


@pytest.fixture(scope="session")
def video_writer() -> Callable[..., None]:
    """`write_video`, for test modules that make videos of their own."""
    return write_video


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Prepares a folder of videos with the given settings."""

    def run(raw: Path, labels: Path | None = None, **settings: object) -> Path:
        out = tmp_path_factory.mktemp("shards")
        prepare(raw, out, config=from_dict(PrepareConfig, settings), labels_path=labels, workers=1)
        return out

    return run


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory, prepared: Callable[..., Path]) -> Corpus:
    """Ten videos, wide and tall, the first shorter than a clip; labels `kind` and `split`; shards of four samples."""
    raw = tmp_path_factory.mktemp("raw")
    labels = tmp_path_factory.mktemp("labels") / "labels.csv"
    rng = np.random.default_rng(0)
    rows = []
    for i in range(10):
        seconds = 0.6 if i == 0 else 2.5 + 0.1 * i
        width, height = (80, 112) if i % 3 == 1 else (128, 96)
        time = np.arange(round(seconds * RATE)) / RATE
        sound = 0.3 * np.sin(2 * np.pi * 200 * (i + 1) * time * (1 + time / 5)) + 0.01 * rng.standard_normal(len(time))
        picture = moving_picture(rng, width=width, height=height, count=round(seconds * 20))
        write_video(raw / f"video{i}.mp4", picture, sound, fps=20)
        rows.append({"path": f"video{i}.mp4", "kind": f"k{i % 3}", "split": "test" if i >= 8 else "train"})
    with labels.open("w", newline="") as file:
        writer = csv.DictWriter(file, ["path", "kind", "split"])
        writer.writeheader()
        writer.writerows(rows)
    storage = {"fps": 10.0, "short_side": 72, "gop": 8}
    shards = {
        codec: prepared(raw, labels, storage={**storage, "codec": codec}, shard_samples=4) for codec in ("vp9", "jpeg")
    }
    return Corpus(raw=raw, labels=labels, **shards)


@pytest.fixture
def no_free_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """A system that starts no process; a pool of workers gives up soon."""

    def refuse(*_args: object, **_kwargs: object) -> None:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(subprocess, "Popen", refuse)
    monkeypatch.setattr(pool, "_PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(pool, "_GIVE_UP_AFTER", (5, 0.05))
