"""Matching the rows of a labels file to sources."""

from __future__ import annotations

import csv as csv_module
import io

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
        ("", "must name a column"),
        ("path\none\n", "at least one label column"),
        ("path,word,word\n", "each once"),
        ("path,word\ntwo,x,y\n", "line 2 has 3 values"),
        ("path,word\ntwo,x\na/two,y\n", "lines 2 and 3 both match 'a/two.mkv'"),
        (b"path,word\n\xff\xfe,x\n", "not a UTF-8 CSV"),
        ('path,word\n"two,x\n', "not a UTF-8 CSV"),
    ],
)
def test_errors_name_the_line(csv, content, message):
    with pytest.raises(LabelError, match=message):
        read_labels(csv(content), NAMES)


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
