"""A prepared folder knows its source folders: another one is refused, or its samples get names of their own."""

from __future__ import annotations

import json
import os
import shutil

import pytest

from pipeline.prepare.records import PrepareError
from pipeline.prepare.staging import Staging
from tests.pipeline.shards.formats import with_index_lines

NEW = ("sha256", "lines", "crc32c")
"""Keys of index rows that older versions did not write."""
DAY1, DAY2 = "path,label\n0001,dog\n0002,dog\n", "path,label\n0001,cat\n0003,cat\n"


def interrupt(*_: object) -> None:
    raise KeyboardInterrupt


@pytest.fixture
def days(tone, tmp_path, prepare):
    """Recordings of two days, numbered from 1 each day, all of one size and time; the first day is prepared."""
    for name, hertz in (("day1/0001", 300), ("day1/0002", 400), ("day2/0001", 1000), ("day2/0003", 1500)):
        os.utime(tone(tmp_path / f"{name}.wav", hertz), (10**9, 10**9))
    prepare("day1", DAY1)


def test_another_source_is_refused_and_nothing_changes(days, prepare, found, decoded):
    before = found()
    for options in ({}, {"sync": True}, {"sync_all": True}):
        with pytest.raises(PrepareError, match=r"was prepared from .*day1, and .*day2 does not hold those files"):
            prepare("day2", DAY2, **options)
    assert (found(), decoded) == (before, [])


def test_another_source_is_added_under_a_name_which_later_runs_know(days, prepare, found, tone, tmp_path, decoded):
    prepare("day2", DAY2, also="day2")
    right = {"0001.wav": (300, "dog"), "0002.wav": (400, "dog")}
    right |= {"day2/0001.wav": (1000, "cat"), "day2/0003.wav": (1500, "cat")}
    assert found() == right
    tone(tmp_path / "day2/0004.wav", 2000)
    prepare("day2", DAY2 + "0004,cow\n")
    assert decoded == ["day2/0004.wav"]
    right["day2/0004.wav"] = (2000, "cow")
    # Corrected labels of one source leave those of the others.
    prepare("day1", "path,label\n0001,wolf\n0002,dog\n")
    prepare("day2", DAY2 + "0004,cow\n")
    assert decoded == []
    assert found() == right | {"0001.wav": (300, "wolf")}


def test_label_columns_of_all_sources_are_kept(days, prepare, found, tmp_path):
    prepare("day2", "path,label,room\n0001,cat,kitchen\n0003,cat,hall\n", also="day2")
    prepare("day1", DAY1)
    meta = json.loads((tmp_path / "out/manifest/meta.json").read_text())
    assert meta["label_columns"] == ["label", "room"]


def test_a_source_that_moved_is_recognised_by_its_content(days, prepare, found, tmp_path, decoded):
    before = found()
    (tmp_path / "day1").rename(tmp_path / "disk")
    os.utime(tmp_path / "disk/0001.wav", (5, 5))
    summary = prepare("disk", DAY1, part=(0, 2))
    assert "disk holds the files that were prepared from" in summary.remark
    assert prepare("disk", DAY1).remark == ""
    assert (found(), decoded, summary.replaced) == (before, [], [])


def test_a_source_that_moved_is_recognised_with_a_damaged_index_too(days, prepare, found, tmp_path):
    before = found()
    (tmp_path / "day1").rename(tmp_path / "disk")
    (index,) = (with_index_lines(tmp_path / "out") / "index").glob("*.jsonl")
    first, second = index.read_bytes().splitlines(keepends=True)
    index.write_bytes(first + b"?" + second[1:])
    summary = prepare("disk", DAY1)
    assert summary.set_aside == [index.stem]
    assert found() == before


def test_other_files_at_the_same_path_are_refused_or_added(days, prepare, found, tmp_path):
    shutil.rmtree(tmp_path / "day1")
    (tmp_path / "day2").rename(tmp_path / "day1")
    for path in (tmp_path / "day1").iterdir():
        os.utime(path)
    with pytest.raises(PrepareError, match=r"none of the files .* but other files of the same names"):
        prepare("day1", DAY2)
    prepare("day1", DAY2, also="day2")
    assert found()["day2/0001.wav"] == (1000, "cat")
    assert found()["0001.wav"] == (300, "dog")
    assert prepare("day1", DAY2).totals.samples == 4


def test_samples_that_wait_for_their_shard_are_not_taken_for_those_of_another_folder(days, prepare, found, tmp_path):
    shutil.rmtree(tmp_path / "out")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Staging, "pack", interrupt)
        with pytest.raises(KeyboardInterrupt):
            prepare("day1", DAY1)
    assert len(list((tmp_path / "out/.staging/part").glob("*.tar"))) == 2
    assert "nothing was prepared from" in prepare("day2", DAY2).remark
    assert found() == {"0001.wav": (1000, "cat"), "0003.wav": (1500, "cat")}


@pytest.mark.parametrize(
    ("src", "also", "message"),
    [
        ("day2", "a/b", "must be one word"),
        ("day2", "..", "must be one word"),
        ("day2", "sub", "holds samples of a folder of that name"),
        ("day2", "Sub", "holds samples of a folder of that name"),
        ("day1", "again", "was prepared into .* without --also"),
        ("day1/sub", "part", "share files"),
        (".", "all", "share files"),
    ],
)
def test_names_that_would_mix_two_sources_are_refused(days, prepare, tone, tmp_path, src, also, message):
    tone(tmp_path / "day1/sub/1.wav", 700)
    prepare("day1", DAY1)
    with pytest.raises(PrepareError, match=message):
        prepare(src, DAY1, also=also)


def test_a_folder_named_like_an_added_source_is_refused(days, prepare, tone, tmp_path):
    prepare("day2", DAY2, also="day2")
    tone(tmp_path / "day1/day2/0001.wav", 700)
    with pytest.raises(PrepareError, match="is the name of a source added"):
        prepare("day1", DAY1)


def test_a_name_belongs_to_one_folder(days, prepare, tone, tmp_path):
    prepare("day2", DAY2, also="day2")
    tone(tmp_path / "day3/0001.wav", 700)
    with pytest.raises(PrepareError, match=r"--also day2 is the name of .*day2"):
        prepare("day3", DAY2, also="day2")


def test_a_folder_of_an_older_version_gets_a_record(days, prepare, found, tmp_path):
    before = found()
    (tmp_path / "out/sources.json").unlink()
    with_index_lines(tmp_path / "out", drop=NEW)
    assert prepare("day1", DAY1).already_prepared == 2
    assert json.loads((tmp_path / "out/sources.json").read_text())["sources"][0]["paths"] == [str(tmp_path / "day1")]
    assert found() == before


@pytest.mark.parametrize(
    "text", ["[", "3", '{"sources": [3]}', '{"sources": [{"name": 1, "paths": [], "columns": []}]}']
)
def test_a_damaged_record_is_named(days, prepare, tmp_path, text):
    (tmp_path / "out/sources.json").write_text(text)
    with pytest.raises(PrepareError, match=r"cannot read .*sources\.json"):
        prepare("day1", DAY1)
