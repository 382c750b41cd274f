"""The official lists of UCF101 and HMDB51 against folders laid out as they are distributed."""

from __future__ import annotations

import numpy as np
import pytest

from common.files import write_json_lines
from evaluation.lists.official_splits import official_tasks, read_official_splits, read_rejected
from pipeline.prepare.run import prepare
from pipeline.shards.manifest import Manifest
from settings import ConfigError, PrepareConfig


def tasks_of(corpus):
    data = Manifest.open(corpus.shards)
    official = read_official_splits(corpus.lists)
    return data, *official_tasks(official, data, rejected=read_rejected(corpus.shards))


def test_ucf101_splits_are_those_of_the_lists(ucf_like):
    data, tasks, _ = tasks_of(ucf_like)
    assert len(tasks) == 3
    for number, task in enumerate(tasks, 1):
        groups = np.array([int(data.source(i).rpartition("_g")[2][:2]) for i in range(len(data))])
        assert set(groups[task.test]) == {2 * number - 1, 2 * number}
        assert set(groups[task.train]) == set(range(1, 7)) - {2 * number - 1, 2 * number}
        assert not (task.train & task.test).any()


def test_classes_are_the_folders_of_the_lists(ucf_like):
    data, (task, *_), _ = tasks_of(ucf_like)
    labels = [data.source(i).partition("/")[0] for i in range(len(data))]
    assert [sorted(set(labels)).index(label) for label in labels] == task.codes.tolist()


def test_coverage_tells_missing_from_unreadable(ucf_like):
    _, _, coverage = tasks_of(ucf_like)
    rows = {(row["split"], row["part"]): row for row in coverage}
    tested_missing, trained_missing = rows[1, "test"], rows[2, "train"]
    assert (tested_missing["listed"], tested_missing["found"], tested_missing["missing"]) == (6, 5, 1)
    assert tested_missing["absent"] == {"ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.avi": "missing"}
    assert (trained_missing["missing"], trained_missing["unreadable"]) == (1, 0)
    (name,) = rows[2, "test"]["absent"]
    assert name == "HandstandPushups/v_HandStandPushups_g03_c01.avi"
    assert rows[2, "test"]["unreadable"] == 1
    assert all(row["listed"] == row["found"] + row["unreadable"] + row["missing"] for row in coverage)


LIST = """# YouTube ID, start seconds, label,train/test split.
--0PQM4-hqg,30,"waterfall burbling, loud",train
_lost,5,rapping,train
-abc,110,rapping,test
-abc,7,rapping,test
"""


class Clips:
    """A data set of these sources, without labels."""

    sources = ("b/-abc_000110.mp4", "x/y/--0PQM4-hqg_000030.webm", "other_000001.mp4")

    def __len__(self):
        return len(self.sources)

    def source(self, index):
        return self.sources[index]


def test_vggsounds_list_names_files_classes_and_parts(tmp_path):
    (tmp_path / "vggsound.csv").write_text(LIST)
    official = read_official_splits(tmp_path / "vggsound.csv")
    (task,), coverage = official_tasks(official, Clips(), rejected={"a/_lost_000005.mp4": "no audio track"})
    assert task.label == "vggsound"
    assert task.train.tolist() == [False, True, False]
    assert task.test.tolist() == [True, False, False]
    assert task.codes.tolist() == [0, 1, -1]  # rapping, waterfall burbling, loud
    assert [(row["part"], row["listed"], row["found"], row["unreadable"]) for row in coverage] == [
        ("train", 2, 1, 1),
        ("test", 2, 1, 0),
    ]


def test_a_list_that_is_not_vggsounds_is_refused_with_its_line(tmp_path):
    (tmp_path / "list.csv").write_text("a,1,rapping,train\na,one,rapping,test\n")
    with pytest.raises(ConfigError, match="line 2: expected ID,SECONDS,LABEL,train or test, found 'a,one,rapping"):
        read_official_splits(tmp_path / "list.csv")


@pytest.mark.parametrize("line", ['a,1,"rapping', "a,²,rapping,train"])
def test_a_stray_quote_or_digit_spoils_only_its_line(tmp_path, line):
    (tmp_path / "list.csv").write_text(f'{line}\nb",train\n')
    with pytest.raises(ConfigError, match="line 1: expected ID,SECONDS,LABEL,train or test"):
        read_official_splits(tmp_path / "list.csv")


# Of the training lists alone: such copies of UCF101 are about, and one class must not become two.
@pytest.mark.parametrize("lists", ["*list0*.txt", "trainlist0*.txt"])
def test_capitals_do_not_matter(ucf_like, tmp_path, lists):
    for path in ucf_like.lists.glob("*list0*.txt"):
        text = path.read_text()
        if path.match(lists):
            text = text.replace("HandstandPushups/", "HandStandPushups/")
        (tmp_path / path.name).write_text(text)
    data, (expected, *_), _ = tasks_of(ucf_like)
    tasks, _ = official_tasks(read_official_splits(tmp_path), data, rejected={})
    assert (tasks[0].train | tasks[0].test).all()
    assert tasks[0].codes.tolist() == expected.codes.tolist()


def test_hmdb51_names_of_all_kinds_are_found(hmdb_like):
    _, tasks, coverage = tasks_of(hmdb_like)
    assert [(task.train.sum(), task.test.sum()) for task in tasks] == [(6, 2)] * 3
    assert all(row["found"] == row["listed"] for row in coverage)
    assert len({tuple(task.test) for task in tasks}) == 3


def test_what_the_lists_leave_out_is_in_no_part(hmdb_like):
    _, tasks, _ = tasks_of(hmdb_like)
    assert [(~(task.train | task.test)).sum() for task in tasks] == [2, 2, 2]


def test_a_folder_without_lists_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"neither trainlist01\.txt"):
        read_official_splits(tmp_path)


def test_a_line_that_is_no_entry_is_named_with_its_number(tmp_path):
    (tmp_path / "clap_test_split1.txt").write_text("a.avi 1\nb.avi 3\n")
    with pytest.raises(ConfigError, match=r"clap_test_split1.txt, line 2: expected VIDEO.avi and 0, 1 or 2"):
        read_official_splits(tmp_path)


def test_a_test_list_that_is_not_there_is_named(tmp_path):
    (tmp_path / "trainlist01.txt").write_text("A/v_A_g01_c01.avi 1\n")
    with pytest.raises(ConfigError, match=r"cannot read the official list .*testlist01.txt"):
        read_official_splits(tmp_path)


def test_lists_of_another_data_set_are_refused(ucf_like, hmdb_like):
    with pytest.raises(ConfigError, match="none of the 6 train videos of hmdb51 split 1 is in the data"):
        official_tasks(read_official_splits(hmdb_like.lists), Manifest.open(ucf_like.shards), rejected={})


class Sources:
    """Samples of which only the names matter."""

    label_columns = ()

    def __init__(self, sources):
        self._sources = sources

    def __len__(self):
        return len(self._sources)

    def source(self, index):
        return self._sources[index]


@pytest.fixture
def two_lists(tmp_path):
    (tmp_path / "trainlist01.txt").write_text("Yo/v_Yo_g08_c01.avi 1\nZed/v_Zed_g08_c01.avi 2\n")
    (tmp_path / "testlist01.txt").write_text("Yo/v_Yo_g01_c01.avi\nZed/v_Zed_g01_c01.avi\n")
    return read_official_splits(tmp_path)


def test_converted_videos_are_found_under_their_new_suffix(two_lists):
    data = Sources([f"ucf/{label}/v_{label}_g{group}_c01.mp4" for label in ("Yo", "Zed") for group in ("01", "08")])
    (task,), coverage = official_tasks(two_lists, data, rejected={})
    assert task.train.tolist() == [False, True, False, True]
    assert task.codes.tolist() == [0, 0, 1, 1]
    assert [row["found"] for row in coverage] == [2, 2]


def test_a_listed_path_that_fits_two_videos_is_in_no_part_and_named(two_lists):
    names = ["Yo/v_Yo_g08_c01", "Yo/v_Yo_g01_c01", "Zed/v_Zed_g01_c01"]
    data = Sources(
        [f"{names[0]}.mp4", f"{names[0]}.mkv", f"{names[1]}.avi", f"{names[1]}.mp4", "Zed/v_Zed_g08_c01.avi"]
    )
    (task,), (train, test) = official_tasks(two_lists, data, rejected={f"{names[2]}.mp4": "empty file"})
    assert task.train.tolist() == [False, False, False, False, True]
    assert task.test.tolist() == [False, False, True, False, False]
    assert train["absent"] == {f"{names[0]}.avi": f"fits 2 videos, such as {names[0]}.mp4 and {names[0]}.mkv"}
    assert (train["missing"], test["unreadable"], test["absent"]) == (1, 1, {f"{names[2]}.avi": "empty file"})


def test_the_real_data_sets_own_files_are_prepared_and_found(real_data, tmp_path):
    """DivX and XviD in AVI, without sound, metadata in odd encodings: as UCF101 and HMDB51 come."""
    videos = sorted((real_data / "videos" / "benchmark_clips").glob("*.avi"))
    lists = tmp_path / "lists"
    lists.mkdir()
    for label, files in (("wave", videos[::2]), ("juggle", videos[1::2])):
        (tmp_path / "videos" / label).mkdir(parents=True)
        for file in files:
            (tmp_path / "videos" / label / file.name).symlink_to(file)
        lines = [f"{file.name} {1 + number % 2}\n" for number, file in enumerate(files)]
        (lists / f"{label}_test_split1.txt").write_text("".join(lines))
    shards = tmp_path / "shards"
    prepare(tmp_path / "videos", shards, config=PrepareConfig(streams="video"), workers=1)
    data = Manifest.open(shards)
    (task,), coverage = official_tasks(read_official_splits(lists), data, rejected=read_rejected(shards))
    assert all(row["found"] == row["listed"] > 0 for row in coverage)
    assert len(data) == len(videos) == (task.train | task.test).sum()


def test_names_of_rejected_files_may_hold_any_character(tmp_path):
    entries = [{"source": f"a/{name}.mp4", "reason": "empty file"} for name in ("x\u2028y", "x\x85y", "x\u2029")]
    write_json_lines(tmp_path / "rejected.jsonl", entries)
    assert read_rejected(tmp_path) == {entry["source"]: "empty file" for entry in entries}
