"""Preparing what published lists name: samples, labels, coverage, and what keeps OUT in step with its source."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from common.files import read_json_lines
from pipeline.labels import attach_labels
from pipeline.lists.table import LabelError
from pipeline.prepare.__main__ import main
from pipeline.prepare.sources import PrepareError
from pipeline.shards.manifest import Manifest
from pipeline.shards.tar_writer import NormalisedMedia

HEAD = "path,start,end,label,split\n"
TREE = Path(__file__).resolve().parents[4]


@pytest.fixture
def src(numbered, tmp_path):
    folder = tmp_path / "src"
    (folder / "sub").mkdir(parents=True)
    shutil.copy(numbered(seconds=12), folder / "sub" / "one.mp4")
    shutil.copy(numbered(".mkv", seconds=8), folder / "two.mkv")
    return folder


@pytest.fixture
def labels(tmp_path):
    """Returns each sample of the manifest with its label; None without one."""

    def read(column: str = "label", out: str = "out") -> dict[str, str | None]:
        manifest = Manifest.open(tmp_path / out)
        names, codes = manifest.label_names(column), manifest.labels(column)
        return {manifest.source(i): names[codes[i]] if codes[i] >= 0 else None for i in range(len(manifest))}

    return read


def _content(out: Path) -> dict[str, bytes]:
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}


def _coverage(out: Path) -> dict[str, int]:
    (counts,) = json.loads((out / "coverage.json").read_text())
    return {key: value for key, value in counts.items() if key not in ("list", "form") and value}


ROWS = HEAD + "sub/one.mp4,1,3,a,train\ntwo,2,4.5,b,test\none,6,7,c,\ntwo.mkv,6,9,d,test\n"
NAMES = ["sub/one.mp4#t=1,3", "sub/one.mp4#t=6,7", "two.mkv#t=2,4.5", "two.mkv#t=6,9"]


def test_segments_are_samples_with_labels_and_one_decode_per_file(prepare, decoded, src, labels, tmp_path):
    summary = prepare(ROWS)
    assert labels() == dict(zip(NAMES, "acbd", strict=True))
    assert labels("split") == dict(zip(NAMES, ["train", None, "test", "test"], strict=True))
    assert decoded == ["sub/one.mp4", "two.mkv"]
    assert summary.prepared == 4
    assert _coverage(tmp_path / "out") == {"listed": 4, "cut": 4}
    assert read_json_lines(tmp_path / "out" / "flagged.jsonl")[0]["flag"] == "segment_cut_seconds"
    assert list(np.asarray(Manifest.open(tmp_path / "out").frames)) == [50, 25, 62, 50]
    prepare(ROWS)
    assert decoded == []


def test_the_bytes_of_a_sample_are_those_of_its_time(prepare, src, shown, tmp_path, numbered):
    prepare(ROWS)
    manifest = Manifest.open(tmp_path / "out")
    data = (tmp_path / "out" / manifest.shards[0]).read_bytes()
    frames, pcm = int(manifest.video_offset[2]), int(manifest.audio_offset[2])
    blob = type("Blob", (), {"data": data[frames : frames + 32 + int(manifest.frame_offsets[-1])]})
    sound = np.frombuffer(data, "<i2", int(manifest.audio_samples[2]), pcm)
    end = int(np.asarray(manifest.frame_offsets)[manifest.frame_start[3] - 1])
    blob.data = data[frames : frames + end]
    seen = shown(NormalisedMedia(video=blob, pcm=sound, flags={}))
    assert seen.seconds[0] == 2.0
    assert seen.beeps == pytest.approx([0, 1, 2], abs=0.001)


def test_a_changed_list_prepares_only_what_is_new(prepare, decoded, src, labels):
    prepare(ROWS)
    summary = prepare(ROWS.replace("one,6,7,c", "one,7,8,e"))
    assert decoded == ["sub/one.mp4"]
    assert summary.dropped == ["sub/one.mp4#t=6,7"]
    assert labels()["sub/one.mp4#t=6,7"] == "c"
    assert labels()["sub/one.mp4#t=7,8"] == "e"
    summary = prepare(ROWS.replace("one,6,7,c", "one,7,8,e").replace("4.5,b", "4.5,z"), sync=True)
    assert decoded == []
    assert "sub/one.mp4#t=6,7" not in labels()
    assert labels()["two.mkv#t=2,4.5"] == "z"
    with pytest.raises(PrepareError, match=r"3 of the 4 samples of .* are not listed any more"):
        prepare(HEAD + "two,2,4.5,b,test\n", sync=True)
    prepare(HEAD + "two,2,4.5,b,test\n", sync_all=True)
    assert labels() == {"two.mkv#t=2,4.5": "b"}


def test_segments_follow_a_moved_file(prepare, decoded, src, labels):
    prepare(ROWS)
    (src / "sub" / "one.mp4").rename(src / "other.mp4")
    rows = ROWS.replace("sub/one.mp4", "other.mp4").replace("\none", "\nother")
    summary = prepare(rows)
    assert decoded == []
    assert summary.moved[0] == "sub/one.mp4#t=1,3 -> other.mp4#t=1,3"
    assert labels()["other.mp4#t=6,7"] == "c"
    prepare(rows)
    assert decoded == []


def test_replaced_and_removed_files(prepare, decoded, src, labels, numbered):
    prepare(ROWS)
    shutil.copy(numbered(seconds=40), src / "sub" / "one.mp4")
    prepare(ROWS)
    assert decoded == []
    prepare(ROWS, sync=True)
    assert decoded == ["sub/one.mp4"]
    (src / "two.mkv").unlink()
    prepare(ROWS, sync=True)
    assert list(labels()) == NAMES[:2]


def test_left_out_files_and_segments(prepare, src, labels, tmp_path):
    (tmp_path / "leave.txt").write_text("sub/one.mp4#t=1,3\ntwo.mkv\n")
    prepare(ROWS, leave_out=tmp_path / "leave.txt")
    assert list(labels()) == ["sub/one.mp4#t=6,7"]
    assert _coverage(tmp_path / "out") == {"listed": 4, "cut": 1, "left out": 3}
    (tmp_path / "leave.txt").write_text("two.mkv#t=0,2\n")
    with pytest.raises(PrepareError, match=r"leaves out windows, such as two\.mkv#t=0,2"):
        prepare(out="windows", settings={"windows": 2.0}, leave_out=tmp_path / "leave.txt")


def test_labels_can_be_attached_to_segments(prepare, src, labels, tmp_path):
    prepare(ROWS)
    (tmp_path / "new.csv").write_text('path,word\n"sub/one.mp4#t=1,3",x\n"one#t=6,7",y\n')
    attach_labels(tmp_path / "out", tmp_path / "new.csv")
    assert labels("word") == dict(zip(NAMES, ["x", "y", None, None], strict=True))
    (tmp_path / "new.csv").write_text("youtube_id,start,end,word\none,6.0,7,z\ntwo,2,4.50,w\n")
    attach_labels(tmp_path / "out", tmp_path / "new.csv")
    assert labels("word") == dict(zip(NAMES, ["x", "z", "w", None], strict=True))


def test_rejected_segments_are_listed_and_not_tried_again(prepare, decoded, src, tmp_path):
    rows = HEAD + "one,1,3,a,train\none,20,30,b,train\none,11.8,30,c,train\n"
    summary = prepare(rows)
    assert dict(summary.rejected) == {"beyond the end of the file": 1, "too short": 1}
    rejected = read_json_lines(tmp_path / "out" / "rejected.jsonl")
    assert [entry["source"] for entry in rejected] == ["sub/one.mp4#t=11.8,30", "sub/one.mp4#t=20,30"]
    assert _coverage(tmp_path / "out") == {"listed": 3, "cut": 1, "unusable": 2}
    prepare(rows)
    assert decoded == []


def test_a_damaged_file_rejects_each_of_its_segments(prepare, src, tmp_path):
    (src / "two.mkv").write_bytes(b"<html>")
    prepare(ROWS)
    rejected = read_json_lines(tmp_path / "out" / "rejected.jsonl")
    assert [entry["source"] for entry in rejected] == NAMES[2:]
    uncovered = read_json_lines(tmp_path / "out" / "uncovered.jsonl")
    assert [(row["line"], row["state"]) for row in uncovered] == [(3, "unusable"), (5, "unusable")]


def test_windows_are_samples_and_a_short_file_keeps_its_name(prepare, decoded, src, labels, tmp_path):
    prepare(settings={"windows": 9.0})
    assert list(labels()) == ["sub/one.mp4#t=0,9", "sub/one.mp4#t=9,18", "two.mkv"]
    assert labels()["sub/one.mp4#t=9,18"] == "sub"
    assert list(np.asarray(Manifest.open(tmp_path / "out").frames)) == [225, 75, 200]
    prepare(settings={"windows": 9.0})
    assert decoded == []
    with pytest.raises(PrepareError, match=r"windows was 9\.0 and is now unset"):
        prepare()


def test_a_lost_shard_of_windows_is_made_again(prepare, decoded, src, labels, tmp_path):
    settings = {"windows": 2.0, "shard_samples": 4}
    prepare(settings=settings)
    before = _content(tmp_path / "out")
    shard = tmp_path / "out" / "shard-000001.tar"
    shard.write_bytes(shard.read_bytes()[:-3000])
    prepare(settings=settings)
    assert decoded == ["sub/one.mp4", "two.mkv"]
    after = _content(tmp_path / "out")
    assert {name: data for name, data in after.items() if name in before} == before


def test_parts_divide_the_files(prepare, src, labels, tmp_path):
    prepare(ROWS, part=(0, 2))
    prepare(ROWS, part=(1, 2))
    assert list(labels()) == NAMES
    assert _coverage(tmp_path / "out") == {"listed": 4, "cut": 4}


def test_trimmed_files_go_before_whole_ones(prepare, src, labels, numbered, tmp_path):
    shutil.copy(numbered(seconds=8), src / "one_000001_000003.mp4")
    shutil.copy(numbered(seconds=8), src / "three_84.mp4")
    rows = "youtube_id,start,end,label\none,1,3,a\none,6,7,b\nthree,84,94,c\ntwo,-1,3,d\n"
    prepare(rows)
    assert labels() == {"one_000001_000003.mp4": "a", "sub/one.mp4#t=6,7": "b", "three_84.mp4": "c"}
    assert _coverage(tmp_path / "out") == {"listed": 4, "cut": 1, "whole": 2, "invalid": 1}


def test_a_killed_run_resumes_with_the_same_bytes(src, tmp_path):
    (tmp_path / "list.csv").write_text(HEAD + "".join(f"one,{i},{i + 2},a{i},\n" for i in range(9)) + "two,1,2,b,\n")
    command = [sys.executable, "-m", "pipeline.prepare", str(src)]
    options = ["--annotations", str(tmp_path / "list.csv"), "--workers", "1", "storage.fps=25", "shard_samples=4"]
    subprocess.run([*command, str(tmp_path / "a"), *options], cwd=TREE, check=True, capture_output=True)
    process = subprocess.Popen(
        [*command, str(tmp_path / "b"), *options], cwd=TREE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    while not list((tmp_path / "b").glob("shard-000000.tar")) and process.poll() is None:
        pass
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    subprocess.run([*command, str(tmp_path / "b"), *options], cwd=TREE, check=True, capture_output=True)
    assert _content(tmp_path / "b") == _content(tmp_path / "a")


def test_the_command_refuses_what_does_not_go_together(src, tmp_path, capsys):
    (tmp_path / "list.csv").write_text(ROWS)
    out, rows = str(tmp_path / "out"), str(tmp_path / "list.csv")
    for options, message in (
        (["--form", "kinetics"], "--form is for the lists of --annotations"),
        (["--annotations", rows, "--labels", rows], "excludes --labels"),
        (["--annotations", rows, "--form", "kinetics"], "not in the form kinetics, but seems to be in the form plain"),
        (["--annotations", str(tmp_path / "none.csv")], "there is no such file"),
        (["--annotations", rows, "--classes", "none"], "is neither kinetics_sounds nor a readable text file"),
        (["--annotations", rows, "--ontology", rows], "is no ontology"),
    ):
        assert main([str(src), out, *options]) == 2
        assert message in capsys.readouterr().err
    assert not Path(out).exists()


def test_a_list_of_other_files_is_refused(prepare, src):
    with pytest.raises(LabelError, match=r"none of its 1 rows names a file(.|\n)*line 2: 'three'"):
        prepare(HEAD + "three,1,2,a,\n")
