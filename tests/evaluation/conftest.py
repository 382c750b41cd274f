"""A prepared demo, and small corpora laid out as UCF101, HMDB51 and ESC-50 are distributed."""

from __future__ import annotations

import wave
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
import pytest

import evaluate
from model import build_model
from pipeline.demo.corpus import make_demo
from pipeline.prepare.run import prepare
from settings import PrepareConfig, StorageConfig
from tests.evaluation.tiny import CONFIG

FPS = 8
COLOURS = {"ApplyEyeMakeup": (200, 40, 40), "HandstandPushups": (40, 200, 40), "YoYo": (40, 40, 200)}
ODD = "#20_Rhythm_clap_u_nm_np1_fr_goo_{}"
ODD_NAMES = ("&quot;Who's_[there]!_{}", ODD, "50_FIRST_DATES_(2004);@home,+1_{}", "Ünïcode=$%_{}", "a b c_{}")


@dataclass(frozen=True)
class Corpus:
    shards: Path
    lists: Path


def write_video(path: Path, colour: tuple[int, int, int], seed: int) -> None:
    """Writes 7 frames (0.875 s) of MPEG-4 in AVI: noise around a colour."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=FPS)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for _ in range(7):
            picture = np.clip(rng.normal(colour, 25, (48, 64, 3)), 0, 255).astype(np.uint8)
            for packet in stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)


def prepared(videos: Path, shards: Path) -> Path:
    storage = StorageConfig(fps=FPS, short_side=48, codec="jpeg")
    prepare(videos, shards, config=PrepareConfig(storage=storage, streams="video"), workers=1)
    return shards


@pytest.fixture(scope="session")
def shards(tmp_path_factory) -> Path:
    """30 demo videos, prepared; not to be changed."""
    folder = tmp_path_factory.mktemp("demo")
    make_demo(folder / "videos", videos=30, seed=0)
    settings = PrepareConfig(storage=StorageConfig(fps=8.0, short_side=48))
    prepare(folder / "videos", folder / "shards", config=settings, labels_path=folder / "videos" / "labels.csv")
    return folder / "shards"


@pytest.fixture
def run(request, tmp_path, monkeypatch) -> Path:
    """A run folder from which evaluate.py loads untrained encoders of the module's CONFIG, by default the smallest."""
    config = getattr(request.module, "CONFIG", CONFIG)
    model = build_model(config.model, audio=config.audio, seed=config.seed).eval()
    monkeypatch.setattr(evaluate, "load_model", lambda path: (config, model))
    return tmp_path


@pytest.fixture(scope="session")
def ucf_like(tmp_path_factory) -> Corpus:
    """UCF-101/CLASS/v_CLASS_gXX_c01.avi, six groups per class, two of which are tested in each of three splits.

    One listed video is missing, and one is damaged.
    """
    folder = tmp_path_factory.mktemp("ucf")
    lists = folder / "ucfTrainTestlist"
    lists.mkdir()
    names: dict[int, list[tuple[str, int]]] = {}
    for code, (label, colour) in enumerate(COLOURS.items(), 1):
        for group in range(6):
            # As in UCF101 itself: the folder's name has one capital fewer than its files'.
            name = f"{label}/v_{label.replace('stand', 'Stand')}_g{group + 1:02d}_c01.avi"
            names.setdefault(group, []).append((name, code))
            write_video(folder / "UCF-101" / name, colour, seed=code * 10 + group)
    (folder / "UCF-101" / names[0][0][0]).unlink()
    (folder / "UCF-101" / names[2][1][0]).write_bytes(b"RIFF not a video")
    for number in (1, 2, 3):
        tested = {2 * number - 2, 2 * number - 1}
        train = [f"{name} {code}\r\n" for group in names for name, code in names[group] if group not in tested]
        test = [f"{name}\n" for group in names for name, _ in names[group] if group in tested]
        (lists / f"trainlist0{number}.txt").write_text("".join(train), newline="")
        (lists / f"testlist0{number}.txt").write_text("".join(test))
    (lists / "classInd.txt").write_text("".join(f"{code} {label}\n" for code, label in enumerate(COLOURS, 1)))
    return Corpus(shards=prepared(folder / "UCF-101", folder / "shards"), lists=lists)


@pytest.fixture(scope="session")
def hmdb_like(tmp_path_factory) -> Corpus:
    """hmdb51/CLASS/CLASS/NAME.avi (each class's archive unpacked into a folder of its own), with odd names."""
    folder = tmp_path_factory.mktemp("hmdb")
    lists = folder / "testTrainMulti_7030_splits"
    lists.mkdir()
    for label, colour in (("brush_hair", (200, 40, 40)), ("shoot_ball", (40, 40, 200))):
        files = [f"{name.format(label)}.avi" for name in ODD_NAMES]
        for seed, name in enumerate(files):
            write_video(folder / "hmdb51" / label / label / name, colour, seed)
        for number in (1, 2, 3):
            # 1: training, 2: test, 0: unused
            codes = np.roll([1, 1, 1, 2, 0], number)
            lines = [f"{name} {code} \n" for name, code in zip(files, codes, strict=True)]
            (lists / f"{label}_test_split{number}.txt").write_text("".join(lines), encoding="utf-8")
    return Corpus(shards=prepared(folder / "hmdb51", folder / "shards"), lists=lists)


@pytest.fixture(scope="session")
def esc_like(tmp_path_factory) -> Path:
    """Shards of five folds of three classes: tones of three pitches, followed by a third of only noise."""
    folder = tmp_path_factory.mktemp("esc")
    (folder / "audio").mkdir()
    rng = np.random.default_rng(0)
    rows = ["filename,fold,target,category,esc10,src_file,take"]
    time = np.arange(24000) / 16000
    for fold in range(1, 6):
        for target, (category, pitch) in enumerate((("dog", 300), ("rain", 1200), ("clock_tick", 4000))):
            for take in "AB":
                name = f"{fold}-{target}000{fold}-{take}-{target}.wav"
                tone = np.sin(2 * np.pi * pitch * rng.uniform(0.8, 1.25) * time) * (time < 1.0)
                samples = (8000 * tone + rng.normal(0, 200, len(time))).astype(np.int16)
                with wave.open(str(folder / "audio" / name), "wb") as file:
                    file.setparams((1, 2, 16000, 0, "NONE", ""))
                    file.writeframes(samples.tobytes())
                rows.append(f"{name},{fold},{target},{category},False,{target}000{fold},{take}")
    (folder / "esc50.csv").write_text("\n".join(rows) + "\n")
    config = PrepareConfig(streams="audio")
    prepare(folder / "audio", folder / "shards", config=config, labels_path=folder / "esc50.csv", workers=1)
    return folder / "shards"
