"""The command `pipeline.prepare`: what it writes, reports and refuses, and how it resumes after an interruption."""

from __future__ import annotations

import io
import itertools
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
import wave
from pathlib import Path

import numpy as np
import pytest
from webdataset import tariterators

from pipeline.prepare.__main__ import main
from pipeline.prepare.labels import LabelError
from pipeline.prepare.records import PrepareError, index_rows
from pipeline.prepare.run import prepare
from pipeline.prepare.staging import Staging
from pipeline.shards.manifest import Manifest
from settings import PrepareConfig, StorageConfig

TINY = ["storage.fps=10", "storage.short_side=16"]
CONFIG = PrepareConfig(storage=StorageConfig(fps=10, short_side=16), shard_samples=3)
ROOT = Path(__file__).parents[3]


def shard_bytes(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(out.glob("shard-*.tar"))}


def rejected(out: Path) -> dict[str, str]:
    lines = (out / "rejected.jsonl").read_text(encoding="utf-8").split("\n")
    return {entry["source"]: entry["reason"] for entry in map(json.loads, filter(None, lines))}


@pytest.fixture
def folder(clip, tmp_path):
    """Eight media files in two folders, of which one has no audio and one is HTML, and a text file."""
    for index, name in enumerate(["a/1.mp4", "a/2.MP4", "a/3.mkv", "b/4.mp4", "b/5.mp4", "b/6.mkv"]):
        clip(name, shade=20 * index)
    clip("b/silent.mp4", silent=True)
    (tmp_path / "src/a/page.mp4").write_text("<html>not found</html>")
    (tmp_path / "src/notes.txt").write_text("hello")
    return tmp_path / "src"


def test_the_command_writes_shards_manifest_and_rejections(folder, tmp_path, capsys):
    out = tmp_path / "out"
    assert main([str(folder), str(out), *TINY, "--workers", "1", "shard_samples=4"]) == 0
    manifest = Manifest.open(out)
    assert [manifest.source(i) for i in range(len(manifest))] == [
        "a/1.mp4", "a/2.MP4", "a/3.mkv", "b/4.mp4", "b/5.mp4", "b/6.mkv",
    ]  # fmt: skip
    assert manifest.label_names("label") == ["a", "b"]
    assert manifest.labels("label").tolist() == [0, 0, 0, 1, 1, 1]
    assert manifest.frames.tolist() == [10] * 6
    assert manifest.audio_samples.tolist() == [16000] * 6
    assert manifest.shards == ["shard-000000.tar", "shard-000001.tar"]
    assert rejected(out) == {"a/page.mp4": "not a media file", "b/silent.mp4": "no audio track"}
    printed = capsys.readouterr()
    assert "8/8 files" in printed.err
    assert "no audio track" in printed.out
    assert not (out / ".staging").exists()
    assert not list(tmp_path.rglob("*.tmp"))


def test_offsets_point_to_the_bytes_of_each_track(folder, tmp_path):
    out = tmp_path / "out"
    prepare(folder, out, config=CONFIG, workers=1)
    manifest = Manifest.open(out)
    for i in range(len(manifest)):
        shard = (out / manifest.shards[manifest.shard[i]]).read_bytes()
        with tarfile.open(out / manifest.shards[manifest.shard[i]]) as archive:
            key = next(m.name for m in archive if m.offset_data == manifest.video_offset[i]).removesuffix(".ivf")
            facts = json.load(archive.extractfile(f"{key}.json"))
        assert facts["source"] == manifest.source(i)
        offsets = manifest.frame_offsets[manifest.frame_start[i] : manifest.frame_start[i + 1]]
        assert len(offsets) == manifest.frames[i] + 1
        assert offsets[0] == 32
        blob = shard[manifest.video_offset[i] : manifest.video_offset[i] + int(offsets[-1])]
        assert blob[:4] == b"DKIF"
        for begin, end in itertools.pairwise(offsets):
            assert int.from_bytes(blob[begin : begin + 4], "little") == end - begin - 12
        start = int(manifest.audio_offset[i])
        with wave.open(io.BytesIO(shard[start - 44 : start + 2 * int(manifest.audio_samples[i])])) as sound:
            assert (sound.getnchannels(), sound.getframerate(), sound.getsampwidth()) == (1, 16000, 2)
            assert sound.getnframes() == manifest.audio_samples[i]


def test_webdataset_reads_the_shards(folder, tmp_path):
    out = tmp_path / "out"
    prepare(folder, out, config=CONFIG, workers=1)
    samples = []
    for shard in sorted(out.glob("*.tar")):
        with shard.open("rb") as stream:
            files = tariterators.tar_file_expander([{"url": str(shard), "stream": stream}])
            samples += list(tariterators.group_by_keys(files))
    assert len(samples) == 6
    for sample in samples:
        assert {"ivf", "wav", "json"} <= sample.keys()
        assert json.loads(sample["json"])["frames"] == 10


def test_frame_offsets_split_a_jpeg_blob_into_images(clip, tmp_path):
    clip("a/1.mp4")
    out = tmp_path / "out"
    assert main([str(tmp_path / "src"), str(out), *TINY, "storage.codec=jpeg"]) == 0
    manifest = Manifest.open(out)
    shard = (out / manifest.shards[0]).read_bytes()[manifest.video_offset[0] :]
    for begin, end in itertools.pairwise(manifest.frame_offsets):
        assert shard[begin : begin + 2] == b"\xff\xd8"
        assert shard[end - 2 : end] == b"\xff\xd9"


def test_shards_do_not_depend_on_the_number_of_workers(folder, tmp_path):
    prepare(folder, tmp_path / "one", config=CONFIG, workers=1)
    prepare(folder, tmp_path / "three", config=CONFIG, workers=3)
    assert shard_bytes(tmp_path / "one") == shard_bytes(tmp_path / "three")
    assert len(shard_bytes(tmp_path / "one")) == 2


def test_all_parts_together_equal_one_run(folder, tmp_path):
    prepare(folder, tmp_path / "one", config=CONFIG, workers=1)
    for index in range(3):
        prepare(folder, tmp_path / "parts", config=CONFIG, workers=1, part=(index, 3))
    one, parts = Manifest.open(tmp_path / "one"), Manifest.open(tmp_path / "parts")
    assert parts.fingerprint == one.fingerprint
    assert [parts.source(i) for i in range(len(parts))] == [one.source(i) for i in range(len(one))]
    np.testing.assert_array_equal(parts.frame_offsets, one.frame_offsets)
    assert all("of3-" in name for name in parts.shards)
    assert rejected(tmp_path / "parts") == rejected(tmp_path / "one")


def test_a_second_run_prepares_only_new_files(folder, clip, tmp_path):
    out = tmp_path / "out"
    assert prepare(folder, out, config=CONFIG, workers=1).prepared == 6
    before = shard_bytes(out)
    again = prepare(folder, out, config=CONFIG, workers=1)
    assert (again.prepared, again.already_prepared, again.rejected.total()) == (0, 6, 0)
    clip("a/0.mp4")
    added = prepare(folder, out, config=CONFIG, workers=1)
    assert (added.prepared, added.totals.samples) == (1, 7)
    assert before.items() <= shard_bytes(out).items()
    assert Manifest.open(out).source(0) == "a/0.mp4"


def test_a_killed_run_resumes(clip, tmp_path):
    for index in range(14):
        clip(f"{index:02}.mkv", seconds=3, shade=5 * index)
    (tmp_path / "src/bad.mp4").write_text("<html>")
    src, out = tmp_path / "src", tmp_path / "out"
    settings = ["storage.fps=10", "storage.short_side=16", "shard_samples=3"]
    command = [sys.executable, "-m", "pipeline.prepare", str(src), str(out), "--workers", "1", *settings]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while len(list(out.glob("index/*.rows"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.wait()
    # A kill can leave half a shard, a shard without its index, and half a line of the journal.
    (out / ".staging/part/shard.tmp").write_bytes(b"half")
    (out / "shard-000099.tar").write_bytes(b"no index names this")
    with (out / "index/part.rejected").open("a") as journal:
        journal.write('{"source": "ba')
    finished = {row["key"] for _, row in index_rows(out)}
    # A sample of a finished shard may still be staged, if the kill came before it was removed.
    staged = {path.name.partition(".")[0] for path in out.glob(".staging/part/*.tar")} - finished
    missing = 14 - len(finished) - len(staged)

    summary = prepare(src, out, config=CONFIG, workers=1)

    assert len(finished) >= 6
    # The worker may have finished one more sample after the kill, before the folder was listed.
    assert missing - 1 <= summary.prepared <= missing
    (out / "shard-000099.tar").unlink()
    prepare(src, tmp_path / "uninterrupted", config=CONFIG, workers=1)
    assert shard_bytes(out) == shard_bytes(tmp_path / "uninterrupted")
    assert rejected(out) == {"bad.mp4": "not a media file"}


def test_other_settings_for_the_same_folder_are_refused(folder, tmp_path, capsys):
    out = tmp_path / "out"
    assert main([str(folder), str(out), *TINY, "--workers", "1"]) == 0
    capsys.readouterr()
    assert main([str(folder), str(out), "storage.fps=20", "storage.short_side=16"]) == 2
    message = capsys.readouterr().err
    assert "storage.fps was 10.0 and is now 20.0" in message
    assert message.count("\n") == 1


def test_rejected_files_are_tried_again_only_under_other_limits(folder, tmp_path):
    out = tmp_path / "out"
    prepare(folder, out, config=CONFIG, workers=1)
    relaxed = PrepareConfig(storage=CONFIG.storage, shard_samples=3, timeout_seconds=240)
    assert prepare(folder, out, config=relaxed, workers=1).rejected.total() == 2


def test_a_modified_file_is_reported_but_not_updated(folder, tmp_path):
    out = tmp_path / "out"
    prepare(folder, out, config=CONFIG, workers=1)
    with (folder / "a/1.mp4").open("ab") as file:
        file.write(b"more")
    summary = prepare(folder, out, config=CONFIG, workers=1)
    assert (summary.replaced, summary.prepared, summary.totals.samples) == (["a/1.mp4"], 0, 6)


def test_labels_come_from_the_csv_file_and_missing_ones_are_counted(folder, tmp_path):
    labels = tmp_path / "labels.csv"
    labels.write_text('path,word,split\na/1.mp4,"red, dark",train\n2,blue,test\nb/4,,train\nnowhere.mp4,x,y\n')
    out = tmp_path / "out"
    summary = prepare(folder, out, config=CONFIG, labels_path=labels, workers=1, labels_may_miss=True)
    manifest = Manifest.open(out)
    assert manifest.label_columns == ["word", "split"]
    assert manifest.label_names("word") == ["blue", "red, dark"]
    assert manifest.labels("word").tolist() == [1, 0, -1, -1, -1, -1]
    assert manifest.labels("split").tolist() == [1, 0, -1, 1, -1, -1]
    assert summary.rows_without_file == 1
    assert summary.totals.unlabelled == 3


def test_corrected_labels_reach_the_manifest_without_preparing_again(folder, tmp_path):
    labels, out = tmp_path / "labels.csv", tmp_path / "out"
    labels.write_text("path,word\n1,cat\n")
    with pytest.raises(LabelError, match="its rows name only 1 of 8 files"):
        prepare(folder, out, config=CONFIG, labels_path=labels, workers=1)
    assert not out.exists()
    prepare(folder, out, config=CONFIG, labels_path=labels, workers=1, labels_may_miss=True)
    labels.write_text("path,word\n1,dog\n")
    assert main([str(folder), str(out), *TINY, "shard_samples=3", "--labels", str(labels), "--labels-may-miss"]) == 0
    assert Manifest.open(out).label_names("word") == ["dog"]


def test_unusual_file_names_are_kept(clip, tmp_path):
    src, out = tmp_path / "src", tmp_path / "out"
    original = clip("plain.mkv").read_bytes()
    names = [
        b"two\nlines.mkv",
        b'a, "b".mkv',
        "ビデオ 🎬.mkv".encode(),
        b"bytes\xff\xfe.mkv",
        b"-rf.mkv",
        b"http:x.mkv",
    ]
    for name in names:
        with open(os.fsencode(src) + b"/" + name, "wb") as file:
            file.write(original)
    summary = prepare(src, out, config=CONFIG, workers=1)
    manifest = Manifest.open(out)
    assert summary.rejected.total() == 0
    found = {manifest.source(i) for i in range(len(manifest))}
    assert found == {
        "plain.mkv",
        "two\nlines.mkv",
        'a, "b".mkv',
        "ビデオ 🎬.mkv",
        "bytes\\xff\\xfe.mkv",
        "-rf.mkv",
        "http:x.mkv",
    }
    for shard in out.glob("*.tar"):
        with tarfile.open(shard) as archive:
            assert all(name.replace(".", "").isalnum() for name in archive.getnames())


def test_links_folders_and_pipes_are_rejected_with_a_reason(clip, tmp_path):
    clip("good.mkv")
    src, out = tmp_path / "src", tmp_path / "out"
    (src / "folder.mp4").mkdir()
    clip("folder.mp4/inside.mkv")
    (src / "dangling.mp4").symlink_to(tmp_path / "nowhere.mp4")
    (src / "loop").symlink_to(src)
    os.mkfifo(src / "pipe.mp4")
    summary = prepare(src, out, config=CONFIG, workers=1)
    assert rejected(out) == {"dangling.mp4": "missing", "folder.mp4": "not a file", "pipe.mp4": "not a file"}
    manifest = Manifest.open(out)
    assert [manifest.source(i) for i in range(len(manifest))] == ["folder.mp4/inside.mkv", "good.mkv"]
    assert summary.prepared == 2


def test_without_any_usable_file_the_status_is_one(tmp_path, capsys):
    src, out = tmp_path / "src", tmp_path / "out"
    src.mkdir()
    (src / "empty.mp4").touch()
    assert main([str(src), str(out)]) == 1
    assert "No file was usable" in capsys.readouterr().out
    assert rejected(out) == {"empty.mp4": "empty file"}
    assert len(Manifest.open(out)) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["absent", "out"], "does not exist"),
        (["src/one.mkv", "out"], "is a file"),
        (["src", "src"], "must not be SRC"),
        (["src", "src/one.mkv"], "is a file"),
        (["src", "out", "--labels", "absent.csv"], "cannot read the labels"),
        (["src", "out", "storage.fp=3"], "did you mean fps"),
        (["src", "out", "storage.short_side=4"], "must be in [16, 4096]"),
        (["empty", "out"], "holds no file with a known video or audio suffix"),
    ],
)
def test_wrong_arguments_end_with_one_line(clip, tmp_path, monkeypatch, capsys, arguments, message):
    clip("one.mkv")
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    printed = capsys.readouterr().err
    assert message in printed
    assert printed.count("\n") == 1


def test_a_second_run_on_the_same_part_is_refused(folder, tmp_path):
    out = tmp_path / "out"
    first = Staging(out, part=(0, 1), config=CONFIG, labels="folders")
    with pytest.raises(PrepareError, match="is working on"):
        prepare(folder, out, config=CONFIG, workers=1)
    first.close()
    assert prepare(folder, out, config=CONFIG, workers=1).prepared == 6
