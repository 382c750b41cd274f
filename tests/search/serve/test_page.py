"""The page in a real browser: search, play, back, filters, an empty index, files that cannot be used."""

from __future__ import annotations

from pathlib import Path

import pytest

from search.embeddings import open_embeddings
from search.index.build import build, remove
from tests.search.rows import write_embeddings
from tests.search.serve.conftest import serving

CARDS = "[...document.querySelectorAll('#results .card h3')].map(e => e.textContent)"
STATUS = "document.getElementById('status').textContent"
FOUND = "!document.getElementById('query').hidden && document.querySelectorAll('#results .card').length"


@pytest.fixture(autouse=True)
def no_faults(browser):
    browser.faults.clear()
    yield
    assert browser.faults == []


def test_search_by_a_sound_play_and_go_back(browser, live, collection):
    browser.open(live.address)
    before = browser.ask(CARDS)
    assert len(before) == 8
    browser.choose_file("#file", collection.videos / "00005.mp4")
    browser.until(FOUND)
    assert browser.ask("document.querySelector('#query h2').textContent") == "00005.mp4"
    browser.ask("document.querySelector('input[name=by][value=audio]').click()")
    browser.until("document.querySelector('input[name=by][value=audio]').checked && shownState.by === 'audio'")
    browser.ask("document.querySelector('input[name=to][value=audio]').click()")
    browser.until("shownState.to === 'audio'")
    assert browser.ask(CARDS)[0] == "00005.mp4"
    assert browser.ask("document.getElementById('heading').textContent") == "Sounds, the most similar first"
    browser.ask("document.querySelector('#results .play').click()")
    assert browser.until("document.querySelector('#results video').currentTime > 0.1")
    browser.until("document.querySelector('#results img').naturalWidth > 0")
    for _ in range(3):
        browser.ask("history.back()")
        browser.ask("new Promise(done => setTimeout(done, 100))")
    browser.until("document.getElementById('query').hidden")
    assert browser.ask(CARDS) == before
    assert browser.ask("document.querySelectorAll('video').length") == 0


def test_a_sound_is_recorded_and_searched_for(browser, live):
    browser.open(live.address)
    browser.ask("document.getElementById('record').click()")
    browser.until("document.getElementById('record').textContent === 'Stop (9 s left)'")
    browser.ask("document.getElementById('record').click()")
    browser.until(FOUND)
    assert browser.ask("document.querySelector('#query h2').textContent") == "recording"
    assert browser.ask("document.querySelector('#query audio').src").startswith("blob:")
    assert browser.ask("[shownState.by, shownState.to]") == ["audio", "video"]
    assert browser.ask("document.getElementById('record').textContent") == "Record a sound"


def test_a_picture_is_dropped_on_the_page(browser, live):
    browser.open(live.address)
    browser.ask(
        """(async () => {
          const picture = await (await fetch('/frame/3')).blob(), carried = new DataTransfer();
          carried.items.add(new File([picture], 'frame.webp', {type: 'image/webp'}));
          document.body.dispatchEvent(new DragEvent('drop', {dataTransfer: carried, bubbles: true, cancelable: true}));
        })()"""
    )
    browser.until(FOUND)
    assert browser.ask("[shownState.picture, shownState.by, shownState.to]") == [True, "video", "audio"]
    assert browser.ask("document.querySelector('#query img').naturalWidth") > 0
    assert "a still picture" in browser.ask("document.querySelector('#query .note').textContent")


@pytest.mark.parametrize("part", ["", "#t=0.5,4"])
def test_a_row_plays_from_its_second(browser, collection, tmp_path, part):
    """Also one of a part of a file, whose times count from the start of the part."""
    sources, start = [f"00001.mp4{part}"] * 4, 0.5 if part else 0
    write_embeddings(tmp_path / "rows", sources)
    build(open_embeddings(tmp_path / "rows"), tmp_path / "index", exact_up_to=1000)
    with serving(tmp_path / "index", run=None, root=collection.videos) as live:
        browser.open(live.address)
        browser.ask("[...document.querySelectorAll('#results .play')][2].click()")
        at = browser.until(
            "(v => v && !v.seeking && v.readyState > 1 && v.currentTime)(document.querySelector('#results video'))"
        )
        assert start + 2 <= at < start + 3.1
        browser.until("document.querySelector('#results video').paused")
        assert browser.ask("document.querySelector('#results video').currentTime") == pytest.approx(start + 3, abs=0.4)
        browser.choose_file("#file", collection.videos / "00001.mp4")
        assert browser.until(STATUS) == "There are no encoders here."


def test_more_like_a_clip_with_labels_and_an_address_that_can_be_shared(browser, live):
    browser.open(live.address)
    first = browser.ask(CARDS)[0]
    browser.ask("document.querySelector('#results .more button:last-child').click()")
    browser.until(FOUND)
    assert browser.ask("document.querySelector('#query h2').textContent") == f"Like {first}"
    assert first not in browser.ask(CARDS)
    label = browser.ask("[...document.querySelector('#filters select[name=kind]').options].at(-1).value")
    browser.ask(
        f"""(s => {{ s.value = '{label}'; s.dispatchEvent(new Event('change', {{bubbles: true}})); }})
        (document.querySelector('#filters select[name=kind]'))"""
    )
    browser.until(f"shownState.where.kind === '{label}'")
    notes = browser.ask("[...document.querySelectorAll('#results .card .note')].map(e => e.textContent)")
    assert all(f"kind: {label}" in note for note in notes)
    cards, address = browser.ask(CARDS), browser.ask("location.href")
    browser.open(address)
    assert browser.ask(CARDS) == cards
    assert browser.ask("document.querySelector('#filters select[name=kind]').value") == label


def test_what_cannot_be_used_is_said_and_the_page_goes_on(browser, live, collection, tmp_path):
    browser.open(live.address)
    for name, content, said in [
        ("broken.mp4", b"no video", "Not a media file: FFmpeg does not recognise it"),
        ("empty.wav", b"", "This file is empty."),
        ("large.wav", bytes(2**22 + 1), "This file is too large: at most 4 MiB are taken."),
        ("broken.png", b"no picture", "Not a picture: its format is none of"),
    ]:
        (tmp_path / name).write_bytes(content)
        browser.choose_file("#file", tmp_path / name)
        browser.until(f"{STATUS}.startsWith({said!r})")
    assert len(browser.ask(CARDS)) == 8
    browser.choose_file("#file", collection.videos / "00002.mp4")
    browser.until(FOUND)
    assert not browser.ask(STATUS)


def test_an_empty_index_says_so(browser, tmp_path: Path):
    write_embeddings(tmp_path / "rows", ["a.mp4"])
    build(open_embeddings(tmp_path / "rows"), tmp_path / "index", exact_up_to=1000)
    remove(tmp_path / "index", ["a.mp4"])
    with serving(tmp_path / "index", run=None, root=None) as live:
        browser.open(live.address)
        assert browser.ask(STATUS).startswith("The index is empty. Add rows with: python -m search.index")
        # Rows that are added meanwhile are found without a new start.
        from search.index.build import add

        add(open_embeddings(tmp_path / "rows"), tmp_path / "index", replacing=False)
        browser.open(live.address)
        assert browser.ask(CARDS) == ["a.mp4"]


def test_hostile_names_and_files_that_browsers_cannot_play(browser, tmp_path: Path):
    hostile = "<img src=x onerror=alert(1)>.mp4"
    (tmp_path / "videos").mkdir()
    for name in ("old.avi", "broken.mp4"):
        (tmp_path / "videos" / name).write_bytes(b"no video")
    labels = {"<b>kind</b>": ["</script><script>alert(1)</script>", "b", "c"]}
    write_embeddings(tmp_path / "rows", [hostile, "old.avi", "broken.mp4"], labels=labels)
    build(open_embeddings(tmp_path / "rows"), tmp_path / "index", exact_up_to=1000)
    with serving(tmp_path / "index", run=None, root=tmp_path / "videos") as live:
        browser.open(live.address)
        assert browser.ask(CARDS)[0] == hostile
        assert browser.ask("document.querySelectorAll('#results script, #filters b, h3 img').length") == 0
        screens = "[...document.querySelectorAll('#results .screen')].map(e => e.textContent)"
        assert browser.ask(screens) == ["The file is not here.", "Browsers cannot play this file. Download it", ""]
        browser.ask("document.querySelectorAll('#results .card')[2].querySelector('.play').click()")
        browser.until(f"{screens}[2].startsWith('Browsers cannot play this file')")


def test_a_phone_shows_two_columns_and_nothing_wider_than_the_screen(browser, live):
    browser.open(live.address, width=390, height=844)
    assert browser.ask("document.documentElement.scrollWidth") <= 390
    assert (
        browser.ask("getComputedStyle(document.getElementById('results')).gridTemplateColumns.split(' ').length") == 2
    )
