"""The preview's page: what it holds, and how it plays in a browser."""

from __future__ import annotations

import base64
import io
import json
import re
import wave
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib import colormaps
from PIL import Image

from pipeline.preview.player import write_page
from tests.pipeline.preview.clips import make_clip


def page_of(folder: Path, *clips) -> str:
    return write_page(clips, folder / "page.html").read_text(encoding="utf-8")


def data_of(text: str) -> list[dict]:
    return json.loads(re.search(r'<script id="data" type="application/json">(.*?)</script>', text, re.DOTALL)[1])


def decoded(uri: str) -> io.BytesIO:
    return io.BytesIO(base64.b64decode(uri.partition(",")[2]))


def test_any_file_name_can_be_shown(tmp_path):
    title = "#1 </script><img src=x>{{data}} 🦊 &.mp4"
    page = page_of(tmp_path, make_clip(title=title))
    assert "<img" not in page
    assert data_of(page)[0]["title"] == title


def test_the_page_is_self_contained_and_plays_the_models_audio(tmp_path):
    clip = make_clip()
    page = page_of(tmp_path, clip)
    assert "http" not in page.replace("http-equiv", "")
    assert not re.findall(r"(?:src|href)=\"(?!data:)", page)
    told = data_of(page)[0]["wave"]
    assert (told["start"], told["end"]) == pytest.approx((0.9, 1.5))
    with wave.open(decoded(told["sound"])) as file:
        assert (file.getframerate(), file.getnchannels()) == (16000, 1)
        np.testing.assert_array_equal(np.frombuffer(file.readframes(-1), "<i2"), clip.pcm)
    assert max(told["high"]) == pytest.approx(clip.pcm.max() / 32768, abs=1e-4)
    assert min(told["low"]) == pytest.approx(clip.pcm.min() / 32768, abs=1e-4)


def test_the_page_shows_the_models_frames_and_spectrogram(tmp_path):
    shades = np.repeat(np.arange(5, dtype=np.uint8) * 50, 8 * 8 * 3).reshape(5, 8, 8, 3)
    clip = make_clip()
    clip = replace(clip, views=[replace(clip.views[0], frames=shades)])
    (told,) = data_of(page_of(tmp_path, clip))
    (frames,), (spectrogram,) = told["frames"], told["spectrograms"]
    sheet = np.asarray(Image.open(decoded(frames["sheet"])).convert("L")).astype(int)
    found = [sheet[8 * (k // frames["columns"]) + 4, 8 * (k % frames["columns"]) + 4] for k in range(frames["count"])]
    assert found == pytest.approx([0, 50, 100, 150, 200], abs=6)
    picture = np.asarray(Image.open(decoded(spectrogram["picture"])).convert("RGB"))
    decibels = clip.views[0].decibels
    low, high = np.percentile(decibels, [1, 100])
    assert spectrogram["note"] == f"{low:.0f} to {high:.0f} dB"
    # The lowest band is the last row.
    expected = colormaps["magma"](np.clip((decibels[0] - low) / (high - low), 0, 1), bytes=True)[:, :3]
    np.testing.assert_array_equal(picture[-1], expected)


def test_the_second_loader_is_shown_with_its_difference(tmp_path):
    (view,) = make_clip().views
    other = replace(view, loader="decord", decibels=view.decibels + 3)
    (told,) = data_of(page_of(tmp_path, make_clip(views=[view, other])))
    assert [(part["label"], part["note"]) for part in told["frames"]] == [
        ("dali", ""),
        ("decord", "difference 0.0 of 255"),
    ]
    assert told["spectrograms"][1]["note"] == "difference 3.00 dB"


PROBE = """
await Promise.all(players.map(player => player.ready));
await new Promise(resolve => setTimeout(resolve, 100));
const [player, silent] = players, answer = {};
const press = key => player.axis.dispatchEvent(new KeyboardEvent("keydown", {key, bubbles: true}));
const head = () => [+player.time.toFixed(3), +parseFloat(player.head.style.left).toFixed(2), player.readout.value];
answer.opened = head();
press("End"); answer.end = head();
press("Home"); press("ArrowRight"); press("ArrowRight"); answer.moved = head();
const box = player.head.parentElement.getBoundingClientRect();
player.axis.setPointerCapture = () => {};
player.axis.dispatchEvent(new PointerEvent("pointerdown", {clientX: box.left + box.width / 2, clientY: box.top + 9}));
answer.clicked = head();
answer.slider = player.axis.getAttribute("aria-valuetext");
answer.sounds = players.map(player => player.audio !== null);
silent.button.click();
answer.playing = [silent.running > 0, silent.button.textContent];
player.button.click();
answer.other = [silent.running > 0, player.running > 0];
player.button.click();
answer.paused = [player.running > 0, player.audio.paused];
answer.titles = [...document.querySelectorAll("h2")].map(title => title.textContent);
return answer;
"""


def test_one_play_head_moves_in_a_browser(in_browser, tmp_path):
    clip = make_clip()
    silent = replace(clip, title="#4 <b>", pcm=None, views=[replace(clip.views[0], decibels=None)])
    told = in_browser(page_of(tmp_path, clip, silent), PROBE)
    # Audio from 0.9 s to 1.5 s, frames from 1.0 s to 1.4 s.
    assert told["opened"] == [0.9, 0, "0.90 s · frame 1 of 4"]
    assert told["end"] == [1.5, 100, "1.50 s · frame 4 of 4"]
    assert told["moved"] == [1.1, 33.33, "1.10 s · frame 2 of 4"]
    assert told["clicked"] == [1.2, 50, "1.20 s · frame 3 of 4"]
    assert told["slider"] == "1.20 s · frame 3 of 4"
    assert told["sounds"] == [True, False]
    assert told["playing"] == [True, "Pause"]
    assert told["other"] == [False, True]
    assert told["paused"] == [False, True]
    assert told["titles"] == ["#3 a.mp4", "#4 <b>"]
