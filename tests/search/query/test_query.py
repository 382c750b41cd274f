"""A file is found by itself, in each modality; results are the same as a table, as JSON and as a page."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from pipeline.media.rejection import RejectedSource
from pipeline.prepare.workers.pool import worker_pool
from search.decoding import storage_of
from search.index.__main__ import main as change
from search.index.folder import SearchIndexError
from search.index.open import open_index
from search.index.rows import Row
from search.query.__main__ import main
from search.query.encode import QueryEncoder
from search.query.find import Hit
from search.query.frames import file_and_start, file_of, frame_at
from search.query.media import FEWEST, MOST, Reading, read_clips
from search.query.page import build_page
from search.query.request import conditions, query_file, split_time
from tests.search.conftest import CONFIG, save_run
from tests.search.rows import write_embeddings

READING = Reading(
    frames=4, storage=storage_of(CONFIG), samples=6400, sample_rate=16000, max_seconds=30.0, max_pixels=2**22
)


@pytest.fixture(scope="module")
def workers():
    pool = worker_pool(1, memory_mb=2048)
    yield pool
    pool.stop()


@pytest.fixture(scope="module")
def encoder(collection, workers) -> QueryEncoder:
    fingerprint = open_index(collection.index).head.model["fingerprint"]
    return QueryEncoder(
        collection.run, fingerprint=fingerprint, workers=workers, max_seconds=60.0, timeout_seconds=60.0
    )


def frame_of(path: Path, number: int) -> Image.Image:
    with av.open(str(path)) as container:
        for place, frame in enumerate(container.decode(video=0)):
            if place == number:
                return frame.to_image()
    raise AssertionError


@pytest.mark.parametrize(("kind", "modality"), [("sound", "audio"), ("video", "video")])
def test_the_vector_of_a_file_is_that_of_its_row(collection, encoder, kind, modality):
    """search.embed decodes with DALI from shards, the query with Pillow from memory."""
    index = open_index(collection.index)
    for number in (0, 5):
        query = encoder.encode(collection.videos / f"{number:05d}.mp4", kind)
        assert query.modality == modality
        scores, ids = index.vectors[modality].search(query.vector[None], 1)
        assert index.rows.rows(ids[0])[0].source == f"{number:05d}.mp4"
        assert scores[0, 0] > 0.98  # it averages more clips than the row


def test_a_picture_is_a_clip_in_which_nothing_moves(collection, encoder, tmp_path):
    frame_of(collection.videos / "00003.mp4", 20).save(tmp_path / "frame.png")
    query = encoder.encode(tmp_path / "frame.png", "picture")
    still = read_clips(tmp_path / "frame.png", "picture", None, encoder._reading)
    assert still.frames.shape[:2] == (1, 1)
    assert query.modality == "video"
    assert query.words == "a still picture, as a clip in which nothing moves"
    assert np.linalg.norm(query.vector) == pytest.approx(1, abs=1e-6)


def test_long_files_are_averaged_and_a_time_takes_one_clip(collection, encoder):
    video = collection.videos / "00001.mp4"
    whole = read_clips(video, "sound", None, READING)
    assert FEWEST <= len(whole.starts) <= MOST
    assert whole.starts[0] == 0
    assert whole.starts[-1] == pytest.approx(whole.seconds - 0.4, abs=1e-3)
    one = read_clips(video, "sound", 1.0, READING)
    assert one.starts.tolist() == [1.0]
    middle = round(1.0 * 16000)
    everything = read_clips(video, "sound", None, Reading(**{**vars(READING), "samples": 3 * 16000}))
    np.testing.assert_array_equal(one.pcm[0], everything.pcm[0][middle : middle + 6400])
    assert encoder.encode(video, "video", at=1.0).words == "the 0.4 s from 1 s on"
    with pytest.raises(RejectedSource, match=r"it ends after .* s, before 99 s"):
        read_clips(video, "video", 99.0, READING)


def test_a_short_sound_is_one_clip_with_silence_after_it(tmp_path):
    import wave

    tone = (8000 * np.sin(np.arange(1600) / 5)).astype("<i2")
    with wave.open(str(tmp_path / "short.wav"), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16000)
        file.writeframes(tone.tobytes())
    clips = read_clips(tmp_path / "short.wav", "sound", None, READING)
    assert clips.pcm.shape == (1, 6400)
    assert np.abs(clips.pcm[0, :1600]).max() > 7000
    assert not clips.pcm[0, 1600:].any()


@pytest.mark.parametrize(
    ("name", "content", "kind", "said"),
    [
        ("a.wav", b"", "sound", "empty file"),
        ("a.jpg", b"not a picture", "picture", "its format is none of JPEG"),
        ("a.jpg", b"\xff\xd8\xff\xe0" + bytes(100), "picture", "not a picture|truncated or damaged"),
        ("a.mp4", b"#EXTM3U\n/etc/passwd", "video", "a playlist"),
        ("a.mp4", b"ffconcat version 1.0\nfile /etc/passwd", "video", "a list of files"),
    ],
)
def test_files_that_cannot_be_used_are_refused_in_words(tmp_path, name, content, kind, said):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(RejectedSource, match=said):
        read_clips(tmp_path / name, kind, None, READING)


def test_pictures_with_too_many_pixels_are_refused_before_they_are_decoded(tmp_path):
    Image.new("1", (4096, 4096)).save(tmp_path / "bomb.png")
    with pytest.raises(RejectedSource, match="4096 x 4096, more than max_pixels=4194304"):
        read_clips(tmp_path / "bomb.png", "picture", None, READING)


def test_a_frame_is_the_one_at_its_time(collection, tmp_path):
    path = collection.videos / "00002.mp4"
    with av.open(str(path)) as container:
        frames = [(frame.time, frame.to_ndarray(format="rgb24")) for frame in container.decode(video=0)]
    for seconds in (0.0, 1.5, 2.9, 99.0):
        (tmp_path / "frame.webp").write_bytes(frame_at(path, seconds, max_pixels=2**22))
        shown = np.asarray(Image.open(tmp_path / "frame.webp").convert("RGB"), np.float32)
        expected = min(frames, key=lambda frame: abs(frame[0] - seconds))[1]
        assert np.abs(shown - expected).mean() < 6


def test_files_are_found_only_below_the_folder(tmp_path):
    root = tmp_path / "videos"
    (root / "dog").mkdir(parents=True)
    (root / "dog" / "1.mp4").touch()
    (tmp_path / "secret").touch()
    (root / "link").symlink_to(tmp_path / "secret")
    (root / "loop").symlink_to(root / "loop")
    root = root.resolve()
    assert file_of(root, "dog/1.mp4") == file_of(root, "dog/1.mp4#t=20,30.5") == root / "dog" / "1.mp4"
    assert file_and_start("dog/1.mp4#t=20.5,30") == ("dog/1.mp4", 20.5)
    assert file_and_start("dog/1.mp4") == ("dog/1.mp4", 0.0)
    for source in (
        "../secret",
        "/etc/passwd",
        "link",
        "loop",
        "dog",
        "",
        "no\0ne",
        "dog/../../secret",
        "a" * 5000,
        "link#t=1,2",
    ):
        assert file_of(root, source) is None


def test_times_and_conditions_are_read_from_texts(tmp_path):
    assert split_time("dog@home.mp4@12.5") == ("dog@home.mp4", 12.5)
    assert split_time("dog@home.mp4") == ("dog@home.mp4", None)
    assert split_time("dog@nan") == ("dog@nan", None)
    assert split_time("dog@-1") == ("dog@-1", None)
    (tmp_path / "a@3").touch()
    assert query_file("sound", str(tmp_path / "a@3")) == (tmp_path / "a@3", None)
    assert query_file("sound", str(tmp_path / "a@3@4")) == (tmp_path / "a@3", 4.0)
    assert conditions(["a=b=c", "d="]) == {"a": "b=c", "d": ""}
    for texts in (["a"], ["=b"], ["a=b", "a=c"]):
        with pytest.raises(SearchIndexError):
            conditions(texts)


def test_table_json_and_page_hold_the_same_rows(collection, tmp_path, capsys):
    common = [str(collection.index), "--sound", str(collection.videos / "00004.mp4"), "--top", "4"]
    assert main([*common, "--json", str(tmp_path / "out.json"), "--html", str(tmp_path / "out.html")]) == 0
    found = json.loads((tmp_path / "out.json").read_text())
    assert found["query"]["by"] == "audio"
    assert found["query"]["to"] == "video"
    assert len(found["results"]) == 4
    assert not capsys.readouterr().out
    page = (tmp_path / "out.html").read_text()
    data = json.loads(page.split('type="application/json">')[1].split("</script>")[0])
    assert [hit["source"] for hit in data["hits"]] == [hit["source"] for hit in found["results"]]
    assert all(hit["picture"].startswith("data:image/webp;base64,") for hit in data["hits"])
    assert main([str(collection.index), "--like", "00004.mp4@1", "--by", "audio", "--to", "video", "--top", "4"]) == 0
    table = capsys.readouterr().out
    assert all(hit["source"] in table for hit in found["results"])
    kind = found["results"][0]["labels"]["kind"]
    assert main([*common, "--where", f"kind={kind}", "--json"]) == 0
    filtered = json.loads(capsys.readouterr().out)["results"]
    assert {hit["labels"]["kind"] for hit in filtered} == {kind}


def test_the_page_shows_hostile_names_as_text(in_browser):
    row = Row(id=0, source="<script>faults.push(1)</script><b>.mp4", start=0, end=1, labels={"<i>": "</script>&"})
    hits = [Hit(row=row, score=0.5)]
    page = build_page(hits, title="<b>x", about="<u>y</u>", pictures={})
    shown = in_browser(
        page, "return [document.querySelector('h2').textContent, document.querySelectorAll('b, i, u').length]"
    )
    assert shown == ["<script>faults.push(1)</script><b>.mp4", 0]


def test_mistakes_end_in_words(collection, tmp_path, capsys):
    other = save_run(tmp_path / "other", scale=1.1)
    (tmp_path / "text.wav").write_text("no sound")
    video = str(collection.videos / "00000.mp4")
    cases = [
        (["nowhere", "--sound", video], "nowhere holds no index"),
        ([str(collection.index), "--sound", "none.wav"], "--sound none.wav: there is no such file"),
        ([str(collection.index), "--sound", video, "--run", str(other)], "are not those of the index"),
        ([str(collection.index), "--sound", video, "--run", "nowhere"], "no checkpoint at nowhere"),
        ([str(collection.index), "--sound", str(tmp_path / "text.wav")], "text.wav: not a media file"),
        ([str(collection.index), "--like", "none.mp4"], "the index has no source 'none.mp4'"),
        ([str(collection.index), "--like", "00000.mp4", "--where", "kind"], "not of the form label=value"),
    ]
    for arguments, said in cases:
        assert main(arguments) == 2
        assert said in capsys.readouterr().err
    for wrong in (["x"], ["x", "--sound", "a", "--video", "b"], ["x", "--sound", "a", "--top", "0"]):
        with pytest.raises(SystemExit):
            main(wrong)


def test_names_that_are_not_utf_8_are_found_as_the_shell_gives_them(tmp_path, capsys):
    name, shown = os.fsdecode(b"b\xff.mp4"), "b\\xff.mp4"
    write_embeddings(tmp_path / "rows", [shown, "u\u2028v\x85.mp4", "c.mp4"], labels={"kind": [shown, shown, None]})
    index = str(tmp_path / "index")
    assert change([str(tmp_path / "rows"), str(tmp_path / name)]) == 2
    assert "the path is not UTF-8" in capsys.readouterr().err
    assert not (tmp_path / name).exists()
    assert change([str(tmp_path / "rows"), index]) == 0
    capsys.readouterr()
    assert main([index, "--like", name, "--where", f"kind={name}", "--json"]) == 0
    assert [hit["source"] for hit in json.loads(capsys.readouterr().out)["results"]] == ["u\u2028v\x85.mp4"]
    assert main([index, "--like", "c.mp4", "--where", f"{name}=x"]) == 2
    assert "the index has no label" in capsys.readouterr().err
    (tmp_path / "list").write_bytes(b"\nb\xff.mp4\r\n" + "u\u2028v\x85.mp4".encode())
    assert change([index, "--remove", "c.mp4", "--remove-list", str(tmp_path / "list")]) == 0
    assert "removed 3 rows" in capsys.readouterr().out


def test_the_worker_side_imports_neither_torch_nor_dali():
    slow = "{'torch', 'nvidia.dali', 'faiss'}"
    program = f"import sys, search.query.media, search.query.frames; print({slow} & {{*sys.modules}})"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
