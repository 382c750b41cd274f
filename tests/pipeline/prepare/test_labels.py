"""Matching the rows of a labels file to sources."""

from __future__ import annotations

import csv as csv_module
import io
import unicodedata
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.prepare.labels import LabelError, folder_labels, read_labels

SAME_FOLDER = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60, derandomize=True
)
# CSV has no way to write a NUL, and UTF-8 cannot encode lone surrogates.
TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)), max_size=12)
NAMES = ["a/one.mp4", "a/two.mkv", "b/one.avi", "b/v1.2.mp4", "ビデオ, é.mp4"]


@pytest.fixture
def csv(tmp_path):
    def write(text: str | bytes, name: str = "labels.csv"):
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


@pytest.mark.parametrize(
    ("spelling", "name"),
    [
        ("a/one.mp4", "a/one.mp4"),
        ("./a/one.mp4", "a/one.mp4"),
        ("a\\one.mp4", "a/one.mp4"),
        ("a/one", "a/one.mp4"),
        ("one.avi", "b/one.avi"),
        ("one", None),
        ("two", "a/two.mkv"),
        ("elsewhere/two.mkv", None),
        ("b/two", None),
        ("./a//one.avi", "a/one.mp4"),
        ("A/one.mp4", None),
        ("b/v1", None),
        ("b/v1.2.AVI", "b/v1.2.mp4"),
        ("/data/src/a/two.mkv", "a/two.mkv"),
        ("/data/src/one.avi", None),
        ("/elsewhere/a/two.mkv", None),
        ("v1.2", "b/v1.2.mp4"),
        ('"ビデオ, é"', "ビデオ, é.mp4"),
        ("three", None),
        ('""', None),
    ],
)
def test_a_row_finds_its_source(csv, spelling, name):
    labels = read_labels(csv(f"path,word\n{spelling},x\n"), NAMES, root=Path("/data/src"))
    assert labels.by_source == ({name: {"word": "x"}} if name else {})
    assert labels.rows_without_file == (name is None)


def test_without_a_column_path_the_first_column_names_the_file(csv):
    labels = read_labels(csv("clip,word,split\ntwo,x,test\n"), NAMES)
    assert labels.columns == ["word", "split"]
    assert labels.by_source["a/two.mkv"] == {"word": "x", "split": "test"}


def test_the_column_path_may_be_at_any_position(csv):
    labels = read_labels(csv("\ufeffword,path\nx,two\n"), NAMES)
    assert labels.by_source == {"a/two.mkv": {"word": "x"}}


def test_tab_separated_values_and_short_rows(csv):
    labels = read_labels(csv("path\tword\tsplit\ntwo\tx, y\n", "labels.tsv"), NAMES)
    assert labels.by_source == {"a/two.mkv": {"word": "x, y", "split": ""}}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "at least one label column"),
        ("path\none\n", "at least one label column"),
        ("path,word,word\n", "each once"),
        ("path,word\ntwo,x,y\n", "line 2 has 3 values"),
        ("a1,cat\ntwo,dog\n", r"may be data or names .*columns 1: 'a1', 'two'; 2: 'cat', 'dog'\); let the first line"),
        ("two,x,3,train\n", "the first line is data, so the columns have no names"),
        ("what,who\nx,y\n", "no column clearly names files"),
        (b"path,word\n\xff\xfe,x\n", "not a UTF-8 CSV"),
        ('path,word\n"two,x\n', "not a UTF-8 CSV"),
    ],
)
def test_errors_name_the_line(csv, content, message):
    with pytest.raises(LabelError, match=message):
        read_labels(csv(content), NAMES)


@pytest.mark.parametrize(
    ("rows", "names", "right"),
    [
        ("a/1.wav,A\na/2.wav,A\nb/1.wav,B\nb/2.wav,B", ["a/1.wav", "b/2.wav"], {"a/1.wav": "A", "b/2.wav": "B"}),
        ("a/2.wav,A\nb/1.wav,B", ["a/1.wav", "b/2.wav"], {}),
        ("x,A\ny,B", ["x.mp4", "x.avi", "y.mp4"], {"y.mp4": "B"}),
        ("x.avi,A", ["x.mp4", "x.avi"], {"x.avi": "A"}),
        ("x.avi,A\nx.mp4,B", ["x.mp4"], {"x.mp4": "B"}),
        ("x,A\nd/x,B\ny,C", ["d/x.mp4", "y.mp4"], {"y.mp4": "C"}),
        ("x,A\nd/x,A", ["d/x.mp4"], {"d/x.mp4": "A"}),
        (unicodedata.normalize("NFD", "d/é") + ",A", ["d/é.mp4"], {"d/é.mp4": "A"}),
        ("d/é,A", [unicodedata.normalize("NFD", "d/é.mp4")], {unicodedata.normalize("NFD", "d/é.mp4"): "A"}),
    ],
)
def test_a_row_labels_only_the_file_that_it_names(csv, rows, names, right):
    labels = read_labels(csv(f"path,label\n{rows}\n"), names)
    assert labels.by_source == {name: {"label": label} for name, label in right.items()}
    labels.check()


def test_files_whose_suffix_lacks_a_stream_are_matched_last(csv):
    path = csv("path,label\nx,A\ny.wav,B\nz,C\n")
    names = ["x.mp4", "x.wav", "y.mp4", "y.wav", "z.mp3"]
    by_source = read_labels(path, names, streams="both").by_source
    assert {name: values["label"] for name, values in by_source.items()} == {"x.mp4": "A", "y.mp4": "B", "z.mp3": "C"}
    assert read_labels(path, names, streams="audio").by_source.keys() == {"y.wav", "z.mp3"}


def test_of_two_files_the_one_that_was_rejected_is_not_meant(csv):
    labels = read_labels(csv("path,label\nx,A\n"), ["x.mp4", "x.webm"])
    assert labels.by_source == {}
    assert labels.without({"x.webm"}).by_source == {"x.mp4": {"label": "A"}}


def test_what_has_no_match_is_counted_and_shown_with_a_hint(csv):
    labels = read_labels(
        csv("path,label\na/One,A\nb/two,A\nz,A\ny,A\n3,A\n3,B\n4,C\n5,C\n"),
        ["a/one.mp4", "a/two.mp4", "3.mp4", "4.mp4", "5.mp4"],
    )
    assert labels.describe() == [
        "rows without a file: 4",
        "  line 2: 'a/One' (differs only in case from 'a/one.mp4')",
        "  line 3: 'b/two' (not in that folder; 'a/two.mp4' has the same name)",
        "  line 4: 'z'",
        "rows whose file is unclear, which label nothing: 2",
        "  line 6: '3' (lines 6 and 7 both match '3.mp4' but disagree on its labels)",
        "files without a row: 2",
        "  'a/one.mp4'",
        "  'a/two.mp4'",
    ]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("0,A\n9,B", "none of its 2 rows names a file"),
        ("c/1,A", "none of its 1 rows names a file"),
        ("a/1,A", "its rows name only 1 of 3 files"),
        ("a/1,A\na/2,A", None),
    ],
)
def test_a_list_of_other_files_is_recognised(csv, rows, message):
    labels = read_labels(csv(f"path,label\n{rows}\n"), ["a/1.mp4", "a/2.mp4", "b/3.mp4"])
    if message is None:
        labels.check()
    else:
        with pytest.raises(LabelError, match=f"{message}.*; correct the list, or pass --labels-may-miss"):
            labels.check()


VGGSOUND = 'abc,1,people marching,test\ndef,30,"dog, barking",train\n'
VGGSOUND_LABELS = [{"label": "people marching", "split": "test"}, {"label": "dog, barking", "split": "train"}]
AUDIOSET = (
    '# Segments csv\n# YTID, start_seconds, end_seconds, positive_labels\n--4, 30.000, 40.000, "/m/068hy,/m/07"\n'
)
KINETICS = 'label,youtube_id,time_start,time_end,split\n"a, b",-x,84,94,train\n'


@pytest.mark.parametrize(
    ("text", "names", "right"),
    [
        (VGGSOUND, ["abc.wav", "def.wav"], VGGSOUND_LABELS),
        (VGGSOUND, ["abc_000001.mp4", "def_000030.mp4"], VGGSOUND_LABELS),
        (VGGSOUND, ["abc_000001_000011.mp4", "x/def_30_40.mp4"], VGGSOUND_LABELS),
        (VGGSOUND, ["other.wav", "def.wav"], [None, VGGSOUND_LABELS[1]]),
        (AUDIOSET, ["--4_30.000_40.000.flac"], [{"label": "/m/068hy,/m/07"}]),
        (AUDIOSET, ["Y--4.wav"], [{"label": "/m/068hy,/m/07"}]),
        (AUDIOSET, ["--4_30000_40000.wav"], [{"label": "/m/068hy,/m/07"}]),
        (KINETICS, ["a, b/-x_000084_000094.mp4"], [{"label": "a, b", "split": "train"}]),
        (KINETICS.partition("\n")[2], ["-x_000084_000094.mp4"], [{"label": "a, b", "split": "train"}]),
        ("1;Pushing, gently\n2;Lifting\n", ["1.webm", "2.webm"], [{"label": "Pushing, gently"}, {"label": "Lifting"}]),
        ("a b.mp4 3\r\nc.mp4 1\r\n", ["a b.avi", "c.avi"], [{"label": "3"}, {"label": "1"}]),
        ("dog,x\ncat,y\n", ["x.wav", "y.wav"], [{"label": "dog"}, {"label": "cat"}]),
        ("gone.wav,dog\nx.wav,cat\n", ["x.wav"], [{"label": "cat"}]),
        ("gone.wav,name\nx.wav,clip\n", ["x.wav"], [{"label": "clip"}]),
        ("x,dog,train\ny,cat,test\n", ["x.wav"], [{"label": "dog", "split": "train"}]),
        ("#20_x.avi,dog\ny.avi,cat\n", ["#20_x.avi", "y.avi"], [{"label": "dog"}, {"label": "cat"}]),
        (",path,word\n0,x.wav,hi\n", ["x.wav"], [{"word": "hi"}]),
        ("mood,take\nhappy,x.wav\nsad,y.wav\n", ["x.wav", "y.wav"], [{"mood": "happy"}, {"mood": "sad"}]),
        ("filename,fold,src_file\n7-1.wav,1,7\n", ["7-1.ogg"], [{"fold": "1", "src_file": "7"}]),
    ],
)
def test_forms_of_lists_are_recognised(csv, text, names, right):
    labels = read_labels(csv(text), names)
    assert [labels.by_source.get(name) for name in names] == right


def test_only_sources_in_sub_folders_get_a_label():
    assert folder_labels(["x.mp4", "dog/y.mp4", "pets/cat/z.mp4"]).by_source == {
        "dog/y.mp4": {"label": "dog"},
        "pets/cat/z.mp4": {"label": "cat"},
    }
    assert folder_labels(["x.mp4"]).columns == []


@SAME_FOLDER
@given(data=st.binary(max_size=80) | st.binary(max_size=80).map(lambda tail: b"path,label\n" + tail))
def test_any_labels_file_is_read_or_raises_a_label_error(tmp_path, data):
    path = tmp_path / "labels.csv"
    path.write_bytes(data)
    message = str(path)
    try:
        read_labels(path, ["a.mp4", "b/c.mp4"])
    except LabelError as error:
        message = str(error)
    assert str(path) in message


@SAME_FOLDER
@given(values=st.lists(TEXT, min_size=1, max_size=8))
def test_labels_are_read_back_as_written(tmp_path, values):
    names = [f"{number} \N{SMILING FACE WITH OPEN MOUTH} é.mp4" for number in range(len(values))]
    buffer = io.StringIO(newline="")
    csv_module.writer(buffer).writerows([("path", "label"), *zip(names, values, strict=True)])
    path = tmp_path / "labels.csv"
    path.write_bytes(buffer.getvalue().encode())
    assert [read_labels(path, names).by_source[name]["label"] for name in names] == [value.strip() for value in values]


def test_ten_thousand_classes_are_read_back(tmp_path):
    names = [f"{number}.mp4" for number in range(10_000)]
    path = tmp_path / "labels.csv"
    path.write_text("path,label\n" + "".join(f"{name},class {name}\n" for name in names))
    assert len({values["label"] for values in read_labels(path, names).by_source.values()}) == 10_000
