"""The page of evaluation.explore: what it holds, what it refuses, and how it behaves in a browser."""

from __future__ import annotations

import io
import json
import re
import shutil
import subprocess
from dataclasses import replace

import av
import numpy as np
import pytest
import torch

from evaluation.explore import collect as explore
from evaluation.explore.__main__ import main
from evaluation.explore.page import Clip, Page, build_page, opus
from model import build_model
from pipeline.shards.manifest import Manifest
from settings import ClipConfig, Config, DataConfig, ModelConfig, to_dict
from training.checkpoint import CheckpointStore

NASTY = "</script><img src=x onerror=alert(1)> {{title}} {{data}} \u2028 & \" ' \\"
CONFIG = Config(
    data=DataConfig(path="elsewhere"),
    clip=ClipConfig(frames=4, fps=8.0, size=32),
    model=ModelConfig(video="tiny", audio="tiny", dim=16),
)


@pytest.fixture(scope="module")
def run(shards, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    model = build_model(CONFIG.model, audio=CONFIG.audio, seed=0)
    ids = torch.tensor([3, 7, -1, 20, 11])
    state = {
        "config": to_dict(CONFIG),
        "data": Manifest.open(shards).fingerprint,
        "model": model.state_dict(),
        "active": {modality: {"dictionary.ids": ids} for modality in ("video", "audio")},
    }
    store = CheckpointStore(folder / "checkpoints", keep=1)
    store.save(state, step=5)
    store.wait()
    return folder


def small_page(**changes) -> Page:
    rng = np.random.default_rng(0)
    clip = Clip(sample=0, source=NASTY, picture=np.zeros((8, 8, 3), np.uint8), pcm=np.zeros(1600, np.int16))
    page = Page(
        title=NASTY,
        notes=[NASTY],
        columns={NASTY: [NASTY, ""]},
        clips=[clip, replace(clip, sample=1)],
        sample_rate=16000,
        maps={modality: rng.random((2, 2)) for modality in ("video", "audio")},
        nearest={(a, b): [[(1, 0.5)], [(0, 0.5)]] for a in ("video", "audio") for b in ("video", "audio")},
        active={"video": np.array([0])},
        random={"video": np.array([1])},
    )
    return replace(page, **changes)


def data_of(text: str) -> dict:
    return json.loads(re.search(r'<script id="data" type="application/json">(.*?)</script>', text, re.DOTALL)[1])


def test_names_cannot_become_markup_or_script():
    text = build_page(small_page())
    assert text.count("</script>") == 2
    assert "<img src=x" not in text
    data = data_of(text)
    assert data["clips"][0]["source"] == data["notes"][0] == NASTY
    assert list(data["columns"]) == [NASTY]


def test_page_needs_nothing_from_elsewhere(run, shards, tmp_path):
    out = tmp_path / "explore.html"
    arguments = [str(run), "--data", str(shards), "--out", str(out), "--samples", "20", "--map", "pca"]
    assert main(arguments) == 0
    text = out.read_text(encoding="utf-8")
    assert not re.findall(r"https?://(?!www\.w3\.org/2000/svg)", text)
    assert not re.findall(r"(?:src|href)=\"(?!data:)", text)
    assert out.stat().st_size < 500_000
    data = data_of(text)
    assert len(data["clips"]) == 20
    assert all(clip["picture"].startswith("data:image/jpeg;base64,") for clip in data["clips"])
    assert any("20 of 30 samples" in note for note in data["notes"])
    active = {data["clips"][row]["sample"] for row in data["sets"]["video"]["active"]}
    assert active == {3, 7, 11, 20}
    assert len(data["sets"]["video"]["random"]) == 4


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


def test_nearest_leaves_a_clip_out_only_within_its_own_modality():
    rows = np.eye(3) + 0.1
    assert [near[0][0] for near in explore.nearest(rows, rows.copy())] == [0, 1, 2]
    assert all(k not in [row for row, _ in near] for k, near in enumerate(explore.nearest(rows, rows)))


def test_sound_is_small_and_plays_as_long_as_the_clip():
    seconds = np.arange(16000) / 16000
    data = opus((8000 * np.sin(2 * np.pi * 440 * seconds)).astype(np.int16), 16000)
    assert len(data) < 8000
    with av.open(io.BytesIO(data)) as container:
        samples = sum(frame.samples for frame in container.decode(audio=0))
    assert samples / 48000 == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--samples", "3"], "--samples must be at least 8, not 3"),
        (["--data", "nowhere"], "nowhere holds no manifest"),
    ],
)
def test_mistakes_are_named_and_end_with_status_two(run, shards, capsys, tmp_path, arguments, message):
    assert main([str(run), "--data", str(shards), "--out", str(tmp_path / "x.html"), *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


BROWSER = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), ""
)


@pytest.mark.skipif(not BROWSER, reason="no chromium on this machine")
def test_click_in_a_browser_shows_the_nearest_clips(tmp_path):
    probe = """<script>
    document.querySelector('circle[data-row="0"]').dispatchEvent(new MouseEvent("click", {bubbles: true}));
    const set = document.getElementById("set");
    set.value = "video active"; set.dispatchEvent(new Event("change"));
    document.title = ["tiles", document.querySelectorAll("#clip .row .clip").length, "ringed",
      document.querySelectorAll("circle.active").length, "injected", document.querySelectorAll("img[src=x]").length,
      "audio", document.querySelectorAll("audio[controls]").length].join(" ");
    </script></body>"""
    page = tmp_path / "page.html"
    page.write_text(build_page(small_page()).replace("</body>", probe), encoding="utf-8")
    options = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    shown = subprocess.run(
        [BROWSER, *options, "--dump-dom", page.as_uri()],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert "<title>tiles 4 ringed 1 injected 0 audio 1</title>" in shown.stdout
