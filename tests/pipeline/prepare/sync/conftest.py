"""Folders of short tones, and preparation without worker processes."""

from __future__ import annotations

import wave
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pipeline.media.rejection import RejectedSource
from pipeline.prepare import run
from pipeline.prepare.summary import Summary
from pipeline.shards.manifest import Manifest
from settings import PrepareConfig

RATE = 16000


@pytest.fixture
def tone() -> Callable[[Path, int], Path]:
    """Writes 0.5 s of a tone of so many Hz; all files have the same size."""

    def write(path: Path, hertz: int) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        with wave.open(str(path), "wb") as file:
            file.setparams((1, 2, RATE, 0, "NONE", ""))
            file.writeframes((9000 * np.sin(2 * np.pi * hertz * np.arange(RATE // 2) / RATE)).astype("<i2").tobytes())
        return path

    return write


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
    """Prepares tmp_path/SRC into tmp_path/out; `labels` is the text of a labels file."""

    def call(src: str = "src", labels: str | None = None, **options) -> Summary:
        decoded.clear()
        if labels is not None:
            (tmp_path / "labels.csv").write_text(labels)
            options["labels_path"] = tmp_path / "labels.csv"
        config = PrepareConfig(streams="audio", shard_samples=2)
        return run.prepare(tmp_path / src, tmp_path / "out", config=config, workers=1, **options)

    return call


@pytest.fixture
def found(tmp_path) -> Callable[[], dict[str, tuple[int, str]]]:
    """Returns, for each sample of the manifest, the frequency that its bytes hold in Hz, and its label."""

    def read() -> dict[str, tuple[int, str]]:
        manifest = Manifest.open(tmp_path / "out")
        names, codes = manifest.label_names("label"), manifest.labels("label")
        result = {}
        for i in range(len(manifest)):
            shard = (tmp_path / "out" / manifest.shards[manifest.shard[i]]).read_bytes()
            pcm = np.frombuffer(shard, "<i2", int(manifest.audio_samples[i]), int(manifest.audio_offset[i]))
            hertz = round(int(np.abs(np.fft.rfft(pcm)).argmax()) * RATE / len(pcm))
            result[manifest.source(i)] = (hertz, names[codes[i]] if codes[i] >= 0 else "")
        return result

    return read
