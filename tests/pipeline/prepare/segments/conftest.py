"""A video that shows the number of the second and of the frame, and beeps at the beginning of each second."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.media.rejection import RejectedSource
from pipeline.prepare import run
from pipeline.prepare.segments.options import Annotations
from pipeline.prepare.summary import Summary
from pipeline.shards.tar_writer import NormalisedMedia
from settings import PrepareConfig
from settings.load import from_dict

FPS = 25
SOUND_RATE = 44100
STORAGE = {"fps": FPS, "short_side": 48}


class Shown(NamedTuple):
    """What a sample shows and plays.

    Attributes:
        seconds: float [frames], the time in the video that each frame shows.
        beeps: seconds from the start of the sample at which beeps begin.
    """

    seconds: NDArray[np.float64]
    beeps: list[float]


@pytest.fixture(scope="session")
def numbered(media, tmp_path_factory) -> Callable[..., Path]:
    """Returns a function that makes the video in a format, once per length and suffix."""
    folder = tmp_path_factory.mktemp("numbered")

    def make(suffix: str = ".mp4", *, seconds: int = 40) -> Path:
        path = folder / f"{seconds}{suffix}"
        if not path.exists():
            frames = [
                (index / FPS, np.hstack([media.flat(15 + 5 * (index // FPS)), media.flat(15 + 9 * (index % FPS))]))
                for index in range(seconds * FPS)
            ]
            time = np.arange(seconds * SOUND_RATE) / SOUND_RATE
            beeps = (0.7 * np.sin(2 * np.pi * 1000 * time) * (time % 1 < 0.05)).astype(np.float32)
            media.write(path, frames=frames, sound=[(0.0, beeps)])
        return path

    return make


@pytest.fixture(scope="session")
def shown(media) -> Callable[[NormalisedMedia], Shown]:
    """Reads from a sample of the video what it shows and plays."""

    def read(sample: NormalisedMedia, rate: int = 16000) -> Shown:
        frames = media.decode(sample.video.data, "gray").astype(float)
        width = frames.shape[2]
        second = np.round((frames[:, :, : width // 2 - 6].mean(axis=(1, 2)) - 15) / 5)
        part = np.round((frames[:, :, width // 2 + 6 :].mean(axis=(1, 2)) - 15) / 9)
        loud = np.abs(sample.pcm.astype(int)) > 3000
        begins = np.flatnonzero(loud & ~np.concatenate([[False], loud[:-1]]))
        beeps = [place for number, place in enumerate(begins) if not number or place - begins[number - 1] > rate // 4]
        return Shown(second + part / FPS, [place / rate for place in beeps])

    return read


@pytest.fixture
def decoded(monkeypatch) -> list[str]:
    """Names of the sources that were decoded, in order; decoding happens in this process, which is faster."""
    names: list[str] = []

    def run_tasks(function, tasks, **_):
        for task in tasks:
            names.append(task.source.name)
            try:
                function(task)
                yield task, None
            except RejectedSource as error:
                yield task, error

    monkeypatch.setattr(run, "run_tasks", run_tasks)
    return names


@pytest.fixture
def prepare(decoded, tmp_path) -> Callable[..., Summary]:
    """Prepares tmp_path/src into tmp_path/out; `rows` is the text of a list of annotations."""

    def call(rows: str | None = None, *, out: str = "out", settings: dict | None = None, **options) -> Summary:
        decoded.clear()
        if rows is not None:
            (tmp_path / "list.csv").write_text(rows)
            options["annotations"] = Annotations(paths=(tmp_path / "list.csv",))
        config = from_dict(PrepareConfig, {"storage": STORAGE, **(settings or {})})
        return run.prepare(tmp_path / "src", tmp_path / out, config=config, workers=1, **options)

    return call
