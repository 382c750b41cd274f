"""The command search.curate on data with planted faults: what it finds and writes, and that it resumes."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import numpy as np
import pytest

from benchmarks.curate.swapped_sounds import swap_sounds
from model import build_model
from pipeline.demo.corpus import make_demo, write_mp4
from pipeline.demo.scene import render
from pipeline.loader import make_loader
from pipeline.prepare.run import prepare
from search.curate.__main__ import main
from settings import Config, PrepareConfig, load_config, to_dict
from tests.search.curate.plant import reencode
from tests.training.small_run import OVERRIDES
from training.checkpoint import CheckpointStore
from training.tracking.metrics import read_metrics

RUN = [*OVERRIDES, "model.hidden=16", "train.batch_size=4", "train.threads=1", "data.threads=1", "train.log_every=1"]


@pytest.fixture(scope="module")
def faulty(tmp_path_factory) -> Path:
    """Shards of fourteen demo videos, a copy of one of them in the other split, a silent and a static video."""
    folder = tmp_path_factory.mktemp("faulty")
    videos = folder / "videos"
    make_demo(videos, videos=14, seed=0)
    reencode(videos / "00003.mp4", videos / "copy.mp4", crf=32, width=96, bit_rate=32000, cut=0.3)
    frames, sound, _ = render(1, 1, (0, 99))
    write_mp4(videos / "silent.mp4", frames, 0 * sound)
    write_mp4(videos / "static.mp4", np.repeat(frames[:1], len(frames), axis=0), sound)
    with open(videos / "labels.csv", "a") as file:
        file.write("copy.mp4,star,slow,test\nsilent.mp4,square,medium,train\nstatic.mp4,square,medium,train\n")
    settings = ["storage.short_side=48", "storage.codec=jpeg"]
    prepare(
        videos,
        folder / "shards",
        config=load_config(PrepareConfig, None, settings),
        labels_path=videos / "labels.csv",
        workers=1,
    )
    return folder / "shards"


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A run folder with untrained encoders."""
    folder = tmp_path_factory.mktemp("run")
    config = load_config(Config, None, RUN)
    model = build_model(config.model, audio=config.audio, seed=0)
    (folder / "checkpoints").mkdir()
    store = CheckpointStore(folder / "checkpoints", keep=1)
    store.save({"config": to_dict(config), "data": "", "model": model.state_dict()}, step=7)
    store.finish()
    return folder


def table(path: Path) -> dict[str, dict[str, str]]:
    with open(path, newline="") as file:
        return {row["source"]: row for row in csv.DictReader(file)}


def test_copies_silence_and_stills_are_found_and_training_takes_the_list(
    faulty: Path, run: Path, tmp_path: Path, capsys, in_browser
):
    out = tmp_path / "out"
    assert main([str(run), str(faulty), "--out", str(out), "--no-folds", "--lowest-score=-99"]) == 0
    assert re.search(
        r"3 samples to leave out \(0 mismatched, 1 duplicate, 1 silent, 1 static\)", capsys.readouterr().out
    )
    rows = table(out / "pairs.csv")
    assert len(rows) == 17
    assert {source for source, row in rows.items() if row["duplicate_of"]} == {"00003.mp4", "copy.mp4"}
    assert float(rows["silent.mp4"]["loudness_db"]) < -80 < -40 < float(rows["static.mp4"]["loudness_db"])
    # The copy is tested on, so its original must not be trained on.
    listed = {source: row["reason"] for source, row in table(out / "leave_out.csv").items()}
    assert listed == {"00003.mp4": "duplicate", "silent.mp4": "silent", "static.mp4": "static"}
    config = load_config(Config, None, [*RUN, f"data.path={faulty}", f"data.leave_out={out / 'leave_out.csv'}"])
    loader = make_loader(config)
    assert {loader.dataset.source(int(i)) for i in loader.ids} == rows.keys() - listed.keys()

    page = (out / "curate.html").read_text(encoding="utf-8")
    probe = """
    const answer = {titles: [...document.querySelectorAll("h2")].map(h => h.textContent)};
    answer.copies = [...document.querySelectorAll(".pair")].map(pair => pair.textContent);
    const first = document.querySelector(".clip");
    answer.worst = first.textContent;
    first.click(); answer.playing = first.className;
    first.click(); answer.stopped = first.className;
    return answer;
    """
    told = in_browser(page, probe)
    assert told["titles"] == ["Pairs that go together least", "Near-duplicates", "Silent", "Static"]
    (copies,) = told["copies"]
    assert "00003.mp4" in copies
    assert "between train and test" in copies
    worst = min(rows.values(), key=lambda row: float(row["score"]))
    assert worst["source"] in told["worst"]
    assert (told["playing"], told["stopped"]) == ("clip playing", "clip")


def test_every_pair_is_scored_by_a_model_that_has_not_seen_it_and_a_second_call_trains_nothing(
    faulty: Path, run: Path, tmp_path: Path
):
    out = tmp_path / "out"
    call = [str(run), str(faulty), "--out", str(out), "--folds", "2", "--steps", "2"]
    assert main(call) == 0
    rows = table(out / "pairs.csv")
    for fold in ("0", "1"):
        held_out = {source for source, row in rows.items() if row["fold"] == fold}
        assert held_out == table(out / "folds" / f"{fold}.csv").keys()
        assert [line["step"] for line in read_metrics(out / "folds" / fold / "metrics.jsonl")] == [1, 2]
        config = load_config(Config, out / "folds" / fold / "config.yaml")
        assert len(make_loader(config).ids) == 17 - len(held_out)
    assert rows["copy.mp4"]["fold"] == rows["00003.mp4"]["fold"]
    before = {path: path.read_bytes() for path in [*out.glob("*.csv"), *out.glob("folds/*/metrics.jsonl")]}
    checkpoints = {path: path.stat().st_mtime_ns for path in out.glob("folds/*/checkpoints/*.pt")}
    assert main(call) == 0
    assert {path: path.read_bytes() for path in before} == before
    assert {path: path.stat().st_mtime_ns for path in out.glob("folds/*/checkpoints/*.pt")} == checkpoints


def test_copies_of_other_data_are_found(faulty: Path, run: Path, demo_shards: Path, tmp_path: Path):
    call = [str(run), str(faulty), "--out", str(tmp_path), "--no-folds", "--against", str(demo_shards)]
    assert main(call) == 0
    rows = table(tmp_path / "pairs.csv")
    # Both were made with the same seed, so all of these videos are in the other data too.
    own = [row for source, row in rows.items() if source[0] == "0"]
    assert all(row["duplicate_of"] for row in own)
    assert all("duplicate" in row["leave_out"] for row in own)
    assert sum(row["duplicate_of"].startswith(str(demo_shards)) for row in own) >= len(own) - 1


def test_planted_sounds_belong_to_other_videos(tmp_path: Path):
    make_demo(tmp_path / "demo", videos=3, seed=0)
    videos = sorted((tmp_path / "demo").glob("*.mp4"))
    before = [video.read_bytes() for video in videos]
    swap_sounds(videos, seed=0)
    assert all(video.read_bytes() != old for video, old in zip(videos, before, strict=True))
    assert not list((tmp_path / "demo").glob(".*"))


def test_mistakes_are_answered_in_words(faulty: Path, run: Path, tmp_path: Path, capsys):
    (tmp_path / "file").touch()
    for options, message in (
        (["--folds", "1"], "--folds must be at least 2 (or use --no-folds), not 1"),
        (["--folds", "9"], "has 17 samples; curating needs at least 36"),
        (["--steps", "-1"], "--steps must be at least 1, not -1"),
        (["--out", str(tmp_path / "file")], "--out must be a folder"),
        (["--against", str(tmp_path)], "holds no manifest"),
    ):
        out = [] if "--out" in options else ["--out", str(tmp_path / "new")]
        assert main([str(run), str(faulty), *out, *options]) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "new").exists()
