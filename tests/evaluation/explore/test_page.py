"""The explore page: what its text can hold, and how it behaves in a browser."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import numpy as np

from evaluation.explore.geometry import nearest
from evaluation.explore.media import opus, strip
from evaluation.explore.page import Clip, Media, Page, build_page, first_chosen

NASTY = "</script><img src=x onerror=alert(1)> {{title}} {{data}} \u2028 & \" ' \\"
COUNT = 12


def small_page(**changes) -> Page:
    """A page of 12 clips, the last of which does not play."""
    rng = np.random.default_rng(0)
    tone = (4000 * np.sin(np.arange(3200) / 5)).astype(np.int16)
    clips = []
    for k in range(COUNT):
        frames = np.full((4, 32, 32, 3), 20 * k, np.uint8)
        media = Media(frames=strip(frames), sound=opus(tone, 16000), lead=0.05)
        clips.append(Clip(sample=10 * k, source=f"{NASTY} {k}", thumbnail=frames[0], media=media))
    clips[-1] = replace(clips[-1], media=None)
    rows = {modality: rng.normal(size=(COUNT, 6)) for modality in ("video", "audio")}
    page = Page(
        title=NASTY,
        notes=[NASTY],
        columns={NASTY: [NASTY, *["dog"] * 5, *["cat 3"] * 5, ""]},
        clusters={modality: np.arange(COUNT) % 3 for modality in rows},
        clips=clips,
        seconds=0.2,
        maps={modality: rng.random((COUNT, 2)) for modality in rows},
        nearest={(a, b): nearest(rows[a], rows[b]) for a in rows for b in rows},
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
    assert data["sources"][0] == f"{NASTY} 0"
    assert data["notes"] == [NASTY]
    assert data["columns"][0]["name"] == NASTY
    assert sorted(data["columns"][0]["values"]) == sorted([NASTY, "cat 3", "dog"])


def test_unlabelled_data_are_coloured_by_clusters():
    data = data_of(build_page(small_page(columns={})))
    assert [column["name"] for column in data["columns"]] == ["video clusters", "audio clusters"]
    assert data["columns"][0]["values"] == ["video cluster 1", "video cluster 2", "video cluster 3"]
    assert data["columns"][0]["codes"] == [0, 1, 2] * 4


def test_first_chosen_clip_plays_and_its_video_and_audio_agree_most():
    page = small_page()
    rows = np.eye(COUNT)
    agreeing = rows + 0.5 * np.roll(rows, 1, axis=1) * np.arange(COUNT, 0, -1)[:, None]
    near = {**page.nearest, ("video", "audio"): nearest(rows, agreeing)}
    # The agreement grows with the row, but the last clip does not play.
    assert first_chosen(replace(page, nearest=near)) == COUNT - 2
    silent = [replace(clip, media=None) for clip in page.clips]
    assert first_chosen(replace(page, clips=silent)) == 0


PROBE = """
await media.ready;
const press = key => document.activeElement.dispatchEvent(new KeyboardEvent("keydown", {key, bubbles: true}));
const answer = {};
answer.opened = [scene.chosen, $("source").textContent];
answer.tiles = [...document.querySelectorAll("#near .tile")].map(tile => [+tile.dataset.row, tile.textContent]);
const map = maps[1], [x, y] = map.at(5), box = map.canvas.getBoundingClientRect();
const pointer = (name, to) => map.canvas.dispatchEvent(new PointerEvent(name,
  {clientX: box.left + x + 1, clientY: box.top + y + 1, pointerType: "mouse", bubbles: true}));
map.canvas.setPointerCapture = () => {};
pointer("pointermove");
answer.hovered = [scene.hovered, cardPlayer.playing, cardPlayer.audio.paused, $("card").hidden];
pointer("pointerdown"); pointer("pointerup");
answer.clicked = [scene.chosen, stage.playing, $("play").textContent];
document.body.focus();
press("/");
answer.focus = document.activeElement.id;
$("search").value = "cat 3"; $("search").dispatchEvent(new Event("input"));
answer.found = [$("found").value, maps.map(of => of.shown.reduce((a, b) => a + b))];
press("Escape");
answer.all = [$("found").value, maps[0].shown.reduce((a, b) => a + b)];
maps[0].canvas.focus(); press("ArrowRight"); press("ArrowRight");
answer.walked = [+document.activeElement.dataset.row, scene.hovered];
document.activeElement.click();
answer.entered = [scene.chosen, document.activeElement.className.includes("tile")];
$("set").value = "video active"; $("set").dispatchEvent(new Event("change"));
answer.dictionary = $("found").value;
choose(11);
answer.still = [$("play").hidden, $("still").hidden];
answer.injected = document.querySelectorAll("img").length;
return answer;
"""


def test_the_page_in_a_browser(in_browser):
    text = build_page(small_page())
    data = data_of(text)
    told = in_browser(text, PROBE)
    first, near = data["first"], data["nearest"]
    assert told["opened"] == [first, f"{NASTY} {first}"]
    pairs = [near[key] for key in ("video-audio", "audio-video", "video-video", "audio-audio")]
    assert [row for row, _ in told["tiles"]] == [row for pair in pairs for row in pair["rows"][first]]
    shown, exact = [float(text) for _, text in told["tiles"]], [c for pair in pairs for c in pair["cosines"][first]]
    np.testing.assert_allclose(shown, exact, atol=0.0051)
    # Hovering plays the frames without sound; a click chooses and plays.
    assert told["hovered"] == [5, True, True, False]
    assert told["clicked"] == [5, True, "Stop"]
    assert told["focus"] == "search"
    assert told["found"] == ["5 of 12 clips", [5, 5]]
    assert told["all"] == ["", COUNT]
    second = near["video-video"]["rows"][5][1]
    assert told["walked"] == [second, second]
    assert told["entered"] == [second, True]
    assert told["dictionary"] == f"1 of 12 clips, values of {NASTY}: 1"
    assert told["still"] == [True, False]
    assert told["injected"] == 0
