"""The command evaluation.explore: what its page holds, and what it refuses."""

from __future__ import annotations

import base64
import io
import json
import re
from dataclasses import replace

import av
import numpy as np
import pytest
import torch
from PIL import Image

from evaluation.explore import collect as explore
from evaluation.explore import media
from evaluation.explore.__main__ import main
from evaluation.explore.media import opus, sheets, strip
from model import build_model
from pipeline.shards.manifest import Manifest
from settings import DictionaryConfig, to_dict
from tests.evaluation.tiny import CONFIG
from training.checkpoint import CheckpointStore, read


def saved_run(folder, shards, *, config=CONFIG, ring="dictionary"):
    """Saves a run with untrained encoders, whose negatives are in `ring` of each modality."""
    model = build_model(config.model, audio=config.audio, seed=0)
    ids = torch.tensor([3, 7, -1, 20, 11])
    state = {
        "config": to_dict(config),
        "data": Manifest.open(shards).fingerprint,
        "model": model.state_dict(),
        "active": {modality: {f"{ring}.ids": ids} for modality in ("video", "audio")},
    }
    store = CheckpointStore(folder / "checkpoints", keep=1)
    store.save(state, step=5)
    store.wait()
    return folder


@pytest.fixture(scope="module")
def run(shards, tmp_path_factory):
    return saved_run(tmp_path_factory.mktemp("run"), shards)


def data_of(text: str) -> dict:
    return json.loads(re.search(r'<script id="data" type="application/json">(.*?)</script>', text, re.DOTALL)[1])


@pytest.fixture(scope="module")
def written(run, shards, tmp_path_factory):
    """The data of a page with 20 clips, 6 of which play, and its text."""
    out = tmp_path_factory.mktemp("page") / "explore.html"
    arguments = [str(run), "--data", str(shards), "--out", str(out), "--samples", "20", "--media", "6", "--map", "pca"]
    assert main(arguments) == 0
    text = out.read_text(encoding="utf-8")
    return data_of(text), text


def test_page_needs_nothing_from_elsewhere(written):
    _, text = written
    assert not re.findall(r"https?://", text)
    assert not re.findall(r"(?:src|href)=\"(?!data:)", text)
    assert "default-src 'none'" in text
    assert len(text) < 500_000


def test_page_holds_the_clips_their_labels_and_the_dictionaries(written):
    data, _ = written
    assert len(data["samples"]) == len(data["sources"]) == 20
    assert any("20 of 30 samples" in note for note in data["notes"])
    active = {data["samples"][row] for row in data["sets"]["video"]["active"]}
    assert active == {3, 7, 11, 20}
    assert len(data["sets"]["video"]["random"]) == 4
    assert [column["name"] for column in data["columns"]][-2:] == ["video clusters", "audio clusters"]
    assert all(len(column["codes"]) == 20 for column in data["columns"])
    assert all(len(places) == 40 and 0 <= min(places) <= max(places) <= 1 for places in data["maps"].values())


def test_with_the_whole_pool_as_negatives_the_page_shows_the_pool(shards, tmp_path):
    config = replace(CONFIG, dictionary=DictionaryConfig(whole_pool=True))
    run = saved_run(tmp_path / "run", shards, config=config, ring="pool")
    out = tmp_path / "explore.html"
    few = ["--samples", "20", "--media", "0", "--map", "pca"]
    assert main([str(run), "--data", str(shards), "--out", str(out), *few]) == 0
    data = data_of(out.read_text(encoding="utf-8"))
    assert {data["samples"][row] for row in data["sets"]["video"]["active"]} == {3, 7, 11, 20}


def test_clips_beyond_the_limit_show_a_still_picture(written):
    data, _ = written
    assert len(data["media"]) == 6
    plays = {data["samples"][int(row)] for row in data["media"]}
    assert {3, 7, 11, 20} < plays
    assert str(data["first"]) in data["media"]
    assert any(note.startswith("6 of these clips play; the others show a still picture") for note in data["notes"])
    clip = next(iter(data["media"].values()))
    frames = Image.open(io.BytesIO(base64.b64decode(clip["frames"].partition(",")[2])))
    assert frames.size == (4 * 32, 32)


def test_dictionaries_of_other_data_are_not_shown():
    chosen = explore.choose({}, np.arange(30), everything=np.arange(30), samples=12, seed=0)
    assert not chosen.active
    assert len(set(chosen.ids)) == 12


def test_random_set_is_as_large_as_the_active_one_and_from_what_was_trained_on():
    held = {"video": np.arange(100), "audio": np.full(5, -1)}
    trained_on = np.arange(50, 150)
    chosen = explore.choose(held, trained_on, everything=np.arange(400), samples=60, seed=1)
    assert len(chosen.active["video"]) == len(chosen.random["video"]) == 12
    assert set(chosen.random["video"]) <= set(trained_on)
    assert "audio" not in chosen.active
    assert len(chosen.ids) == 60


def test_sound_is_small_and_plays_as_long_as_the_clip():
    seconds = np.arange(16000) / 16000
    data = opus((8000 * np.sin(2 * np.pi * 440 * seconds)).astype(np.int16), 16000)
    assert len(data) < 8000
    with av.open(io.BytesIO(data)) as container:
        samples = sum(frame.samples for frame in container.decode(audio=0))
    assert samples / 48000 == pytest.approx(1, abs=0.05)


def test_sheets_hold_the_thumbnails_row_by_row():
    shades = [np.full((64, 64, 3), 40 * k, np.uint8) for k in range(5)]
    (sheet,), columns = sheets(shades)
    picture = np.asarray(Image.open(io.BytesIO(sheet)).convert("L")).astype(int)
    assert (columns, picture.shape) == (3, (128, 192))
    found = [picture[64 * (k // columns) + 32, 64 * (k % columns) + 32] for k in range(5)]
    assert found == pytest.approx([0, 40, 80, 120, 160], abs=6)


def test_many_thumbnails_take_several_sheets(monkeypatch):
    monkeypatch.setattr(media, "SHEET_PIXELS", 256)
    pages, columns = sheets([np.zeros((64, 64, 3), np.uint8)] * 17)
    assert [Image.open(io.BytesIO(page)).size for page in pages] == [(256, 256), (256, 64)]
    assert columns == 4


def test_strip_shows_the_middle_of_equal_parts_of_a_clip():
    frames = np.stack([np.full((112, 112, 3), 15 * k, np.uint8) for k in range(16)])
    picture = np.asarray(Image.open(io.BytesIO(strip(frames))).convert("L")).astype(int)
    assert picture.shape == (112, 8 * 112)
    assert [picture[56, 56 + 112 * j] for j in range(8)] == pytest.approx([15 * (2 * j + 1) for j in range(8)], abs=6)


def test_a_run_whose_embeddings_are_not_finite_has_no_page(run, shards, capsys, tmp_path):
    state = read(next((run / "checkpoints").glob("*.pt")))
    for name, value in state["model"].items():
        if name.endswith("weight"):
            value.fill_(1e38)  # finite, as a checkpoint must be; the sums are not
    store = CheckpointStore(tmp_path / "run" / "checkpoints", keep=1)
    store.save(state, step=5)
    store.wait()
    out = tmp_path / "explore.html"
    assert main([str(tmp_path / "run"), "--data", str(shards), "--out", str(out)]) == 2
    error = capsys.readouterr().err
    assert re.search(r"^explore: the video features of .* are not finite for 000.*\.mp4", error, re.MULTILINE), error
    assert not out.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--samples", "3"], "--samples must be from 8 to 20,000, not 3"),
        (["--samples", "20001"], "--samples must be from 8 to 20,000, not 20,001"),
        (["--media", "-1"], "--media must be from 0 to 5,000, not -1"),
        (["--data", "nowhere"], "nowhere holds no manifest"),
    ],
)
def test_mistakes_are_named_and_end_with_status_two(run, shards, capsys, tmp_path, arguments, message):
    assert main([str(run), "--data", str(shards), "--out", str(tmp_path / "x.html"), *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_the_rows_of_a_dictionary_lead_to_samples():
    clips = np.array([9, -1, 4, 5])
    assert explore._samples_of(clips, 1).tolist() == clips.tolist()
    assert explore._samples_of(clips, 2).tolist() == [-1, 2, 4]
