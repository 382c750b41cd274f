"""Reading published lists of segments in their forms."""

from __future__ import annotations

import json
import re

import pytest

from pipeline.lists.match import Names
from pipeline.lists.published import read_annotations
from pipeline.lists.segments import describe, find_segments
from pipeline.lists.spans import Span, fragment_of, parse_fragment, split_fragment
from pipeline.lists.table import LabelError

AUDIOSET = (
    "# Segments csv created Sun Mar  5 10:54:25 2017\n# num_ytids=2, num_segs=2\n"
    "# YTID, start_seconds, end_seconds, positive_labels\n"
)


@pytest.fixture
def read(tmp_path):
    def call(text, name="list.csv", form=None, files=()):
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return read_annotations(path, 0, form=form, is_file=lambda text: text in files)

    return call


def _rows(found):
    return [(row.text, row.span, dict(row.values)) for row in found.rows]


@pytest.mark.parametrize(
    ("name", "text", "form", "row"),
    [
        (
            "train.csv",
            'label,youtube_id,time_start,time_end,split\n"a, b",--QUuC4vJs,84,94,train\n',
            "kinetics",
            ("--QUuC4vJs", Span(84, 94), {"label": "a, b", "split": "train"}),
        ),
        ("k.csv", "b,x_y,1,11,val\n", "kinetics", ("x_y", Span(1, 11), {"label": "b", "split": "val"})),
        (
            "test.csv",
            "youtube_id,time_start,time_end,split\nx,000001,000011,test\n",
            "kinetics",
            ("x", Span(1, 11), {"split": "test"}),
        ),
        (
            "balanced_train_segments.csv",
            AUDIOSET + '--4gqARaEJE, 0.000, 10.000, "/m/068hy,/m/07q6cd_"\n',
            "audioset",
            ("--4gqARaEJE", Span(0, 10), {"label": "/m/068hy,/m/07q6cd_", "split": "train"}),
        ),
        (
            "eval_segments.csv",
            AUDIOSET + '-0RWZT-miFs, 30.000, 40.000, "/t/dd00128"\r\n',
            "audioset",
            ("-0RWZT-miFs", Span(30, 40), {"label": "/t/dd00128", "split": "test"}),
        ),
        (
            "vggsound.csv",
            '---g-f_I2yQ,1,"people marching, crowd",test\n',
            "vggsound",
            ("---g-f_I2yQ", Span(1, 11), {"label": "people marching, crowd", "split": "test"}),
        ),
        ("acav.tsv", "x-y_z\t12.5\t22.5\n", "acav100m", ("x-y_z", Span(12.5, 22.5), {})),
        (
            "mine.csv",
            "\ufeffpath,start,end,label,mood\na b.mp4,1.5,1e1,x,y\n",
            "plain",
            ("a b.mp4", Span(1.5, 10), {"label": "x", "mood": "y"}),
        ),
        ("mine.csv", "d/a.mp4,1,2,x\n", "plain", ("d/a.mp4", Span(1, 2), {"label": "x"})),
        ("mine.csv", "a.mp4;1;2;x;train\n", "plain", ("a.mp4", Span(1, 2), {"label": "x", "split": "train"})),
        ("mine.csv", "path,start,end,label\na.mp4,,,x\n", "plain", ("a.mp4", None, {"label": "x"})),
        ("mine.csv", "path,label\na.mp4,x\n", "plain", ("a.mp4", None, {"label": "x"})),
        ("contest.csv", "path,start,end\na.mp4,0,1\n", "plain", ("a.mp4", Span(0, 1), {})),
    ],
)
def test_a_table_is_recognised(read, name, text, form, row):
    found = read(text, name)
    assert found.form == form
    assert _rows(found) == [row]
    assert _rows(read(text, name, form=form)) == [row]


def test_activitynets_json(read):
    videos = {
        "v1": {"subset": "training", "annotations": [{"segment": [0.5, 9], "label": "a"}, {"segment": [9, 9.5]}]},
        "v2": {"subset": "testing", "annotations": []},
        "v3": {"subset": "validation", "annotations": [{"segment": "x", "label": "b"}, {"segment": [3]}]},
    }
    found = read(json.dumps({"version": "1.3", "database": videos}), "activity_net.v1-3.min.json")
    assert found.form == "activitynet"
    assert found.without_segments == 1
    assert _rows(found)[:2] == [
        ("v1", Span(0.5, 9), {"label": "a", "split": "train"}),
        ("v1", Span(9, 9.5), {"label": "", "split": "train"}),
    ]
    assert [bool(row.problem) for row in found.rows] == [False, False, True, True]
    assert found.rows[0].whole == ["v_v1", "v1"]
    kinetics = {"x": {"annotations": {"label": "a", "segment": [1.0, 11.0]}, "subset": "train", "url": "u"}}
    assert _rows(read(json.dumps(kinetics), "train.json")) == [("x", Span(1, 11), {"label": "a", "split": "train"})]


def test_official_splits_are_lists_of_whole_files(tmp_path):
    folder = tmp_path / "ucfTrainTestlist"
    folder.mkdir()
    for number in (1, 2):
        (folder / f"trainlist0{number}.txt").write_text(f"Archery/v_Archery_g0{number}_c01.avi 1\n")
        (folder / f"testlist0{number}.txt").write_text(f"Archery/v_Archery_g0{3 - number}_c01.avi\r\n")
    found = read_annotations(folder, 0, form=None, is_file=bool)
    assert found.form == "ucf101"
    assert _rows(found) == [
        ("Archery/v_Archery_g01_c01.avi", None, {"label": "Archery", "split": "train", "split2": "test"}),
        ("Archery/v_Archery_g02_c01.avi", None, {"label": "Archery", "split": "test", "split2": "train"}),
    ]
    hmdb = tmp_path / "hmdb"
    hmdb.mkdir()
    (hmdb / "wave_test_split1.txt").write_text("a [1].avi 1 \nb.avi 2 \nc.avi 0 \n")
    found = read_annotations(hmdb, 0, form="hmdb51", is_file=bool)
    assert [(row.text, row.values["split"]) for row in found.rows] == [
        ("wave/a [1].avi", "train"),
        ("wave/b.avi", "test"),
        ("wave/c.avi", ""),
    ]
    with pytest.raises(LabelError, match="it holds the lists of ucf101"):
        read_annotations(folder, 0, form="hmdb51", is_file=bool)


@pytest.mark.parametrize(
    ("start", "end", "problem"),
    [
        ("nan", "3", "the start must be a number of seconds from 0 to 1,000,000, not 'nan'"),
        ("-1", "3", "the start must be"),
        ("1", "1e400", "the end must be"),
        ("1_0", "30", "not '1_0'"),
        ("", "3", "the start must be"),
        ("0:10", "20", "not '0:10'"),
        ("5", "5.0", r"the end \(5.0\) is not after the start \(5\)"),
        ("9", "5", "is not after"),
    ],
)
def test_times_that_cannot_be_used_are_said(read, start, end, problem):
    found = read(f"path,start,end,label\na.mp4,1,2,x\nb.mp4,{start},{end},x\n")
    assert found.rows[0].problem == ""
    assert re.search(problem, found.rows[1].problem)


@pytest.mark.parametrize(
    ("text", "name", "form", "message"),
    [
        (
            "path,start,end\na.mp4,0,1\n",
            "l.csv",
            "audioset",
            "but seems to be in the form plain",
        ),
        ('x,1,"a",test\n', "l.csv", "kinetics", "not in the form kinetics: line 1 is"),
        ("{}", "l.json", None, "lists nothing"),
        ("[1, 2]", "l.json", "activitynet", "is not in the form activitynet: it must hold"),
        ("{1", "l.json", None, "is no JSON"),
        ("label,start,end\nx,0,1\n", "l.csv", None, "no column is named path, file or youtube_id"),
        ("path,start,label\na.mp4,0,x\n", "l.csv", None, "has no column end"),
        ("a,b\nc,d\n", "l.csv", None, "has an unknown form"),
        ("path,label,label\na,b,c\n", "l.csv", None, "names a column twice"),
        ("", "l.csv", None, "lists nothing"),
        (b"path,label\n\xff,x\n", "l.csv", None, "not a UTF-8 CSV"),
    ],
)
def test_lists_that_cannot_be_read_are_refused(read, text, name, form, message):
    with pytest.raises(LabelError, match=message):
        read(text, name, form=form)


def _find(lists, files):
    return find_segments(lists, Names(files))


def test_files_are_found_by_id_in_any_layout(read):
    text = AUDIOSET + "".join(f'{name}, 30.000, 40.000, "/m/a"\n' for name in ("-a", "b_b", "c", "d", "e", "f"))
    files = ["x/-a_000030_000040.mp4", "b_b_30.mkv", "y/z/Yc.webm", "Yd_30000_40000.mp4", "e.mp4", "g.mp4"]
    found = _find([read(text)], files)
    assert found.spans == {
        "x/-a_000030_000040.mp4": [None],
        "b_b_30.mkv": [None],
        "y/z/Yc.webm": [Span(30, 40)],
        "Yd_30000_40000.mp4": [None],
        "e.mp4": [Span(30, 40)],
    }
    assert [(row.text, row.state) for row in found.lost] == [("f", "missing")]
    assert found.unlisted == ["g.mp4"]


def test_an_id_that_is_listed_is_no_part_of_a_shorter_one(read):
    found = _find([read("youtube_id,start,end\na,10,20\na_10,0,5\n")], ["a.mp4", "a_10.mp4"])
    assert found.spans == {"a.mp4": [Span(10, 20)], "a_10.mp4": [Span(0, 5)]}


def test_the_same_id_in_several_formats_is_unclear(read):
    found = _find([read("youtube_id,start,end\na,10,20\nb,1,2\n")], ["a.mp4", "a.mkv", "b.webm"])
    assert list(found.spans) == ["b.webm"]
    assert found.lost[0][3:] == ("unclear", "fits 2 files: 'a.mp4', 'a.mkv'")


def test_repeated_rows_are_one_sample_and_lose_the_labels_on_which_they_disagree(read):
    text = "path,start,end,label,split\na.mp4,1,2,x,train\na.mp4,1.0,2,x,test\na.mp4,1,2,x,train\na.mp4,3,4,y,test\n"
    found = _find([read(text)], ["a.mp4"])
    assert found.spans == {"a.mp4": [Span(1, 2), Span(3, 4)]}
    assert found.values == {
        "a.mp4#t=1,2": {"label": "x", "split": ""},
        "a.mp4#t=3,4": {"label": "y", "split": "test"},
    }
    assert found.repeated == 2
    assert found.conflicts == ["'a.mp4#t=1,2' has no split, as line 2 and line 3 disagree: 'train' and 'test'"]


def test_files_with_segments_in_several_splits_are_named(read):
    text = "path,start,end,split\na.mp4,1,2,train\na.mp4,3,4,test\n"
    assert "files with segments in several splits: 1" in list(describe(_find([read(text)], ["a.mp4"])))


def test_parts_of_a_file_have_names_that_no_file_can_have():
    for name in ("a.mp4", "a#t=1,2.mp4", "d/#t=1,2/b.3gp"):
        assert split_fragment(name) == (name, "")
        part = name + Span(3, 4.25).fragment
        assert split_fragment(part) == (name, "#t=3,4.25")
        assert parse_fragment("#t=3,4.25") == Span(3, 4.25)
    assert fragment_of(None) == ""
    assert Span(0.1 + 0.2, 1e5).fragment == "#t=0.3,100000"
