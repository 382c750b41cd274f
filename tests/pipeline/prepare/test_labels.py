"""Which row of a labels file belongs to which source."""

from __future__ import annotations

import pytest

from pipeline.prepare.labels import LabelError, folder_labels, read_labels

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
        ("elsewhere/two.mkv", "a/two.mkv"),
        ("v1.2", "b/v1.2.mp4"),
        ('"ビデオ, é"', "ビデオ, é.mp4"),
        ("three", None),
        ('""', None),
    ],
)
def test_a_row_finds_its_source(csv, spelling, name):
    labels = read_labels(csv(f"path,word\n{spelling},x\n"), NAMES)
    assert labels.by_source == ({name: {"word": "x"}} if name else {})
    assert labels.rows_without_file == (name is None)


def test_without_a_column_path_the_first_one_names_the_file(csv):
    labels = read_labels(csv("clip,word,split\ntwo,x,test\n"), NAMES)
    assert labels.columns == ["word", "split"]
    assert labels.by_source["a/two.mkv"] == {"word": "x", "split": "test"}


def test_the_column_path_may_stand_anywhere(csv):
    labels = read_labels(csv("\ufeffword,path\nx,two\n"), NAMES)
    assert labels.by_source == {"a/two.mkv": {"word": "x"}}


def test_tabs_and_short_rows(csv):
    labels = read_labels(csv("path\tword\tsplit\ntwo\tx, y\n", "labels.tsv"), NAMES)
    assert labels.by_source == {"a/two.mkv": {"word": "x, y", "split": ""}}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "must name a column"),
        ("path\none\n", "at least one label column"),
        ("path,word,word\n", "each once"),
        ("path,word\ntwo,x,y\n", "line 2 has 3 values"),
        ("path,word\ntwo,x\na/two,y\n", "lines 2 and 3 both match 'a/two.mkv'"),
        (b"path,word\n\xff\xfe,x\n", "not a UTF-8 CSV"),
        ('path,word\n"two,x\n', "not a UTF-8 CSV"),
    ],
)
def test_mistakes_name_the_line(csv, content, message):
    with pytest.raises(LabelError, match=message):
        read_labels(csv(content), NAMES)


def test_folder_names_are_labels_only_where_there_are_folders():
    assert folder_labels(["x.mp4", "dog/y.mp4", "pets/cat/z.mp4"]).by_source == {
        "dog/y.mp4": {"label": "dog"},
        "pets/cat/z.mp4": {"label": "cat"},
    }
    assert folder_labels(["x.mp4"]).columns == []
