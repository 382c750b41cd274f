"""Parsers on whatever people and damage may hand them: a correct result or the parser's own error, never another."""

from __future__ import annotations

import contextlib
import csv
import io
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.prepare.labels import LabelError, read_labels
from pipeline.shards.reader import _are_jpegs
from settings import Config, ConfigError, PrepareConfig, load_config, to_dict
from tests.pipeline.prepare.test_round_trips import jpeg

SAME_FOLDER = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60, derandomize=True
)
# CSV has no way to write a NUL, files no way to write half of a surrogate pair.
TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)), max_size=12)


def keys_of(tree: dict, prefix: str = "") -> list[str]:
    keys = []
    for key, value in tree.items():
        keys += keys_of(value, f"{prefix}{key}.") if isinstance(value, dict) else [prefix + key]
    return keys


def refusal_of(kind: type[Exception], parser: Callable[..., object], *arguments: object) -> str | None:
    try:
        parser(*arguments)
    except kind as error:
        return str(error)
    return None


@SAME_FOLDER
@given(key=st.sampled_from(keys_of(to_dict(Config()))) | TEXT, value=TEXT | st.integers().map(str))
def test_any_override_is_taken_or_refused_as_a_config_error(key, value):
    with contextlib.suppress(ConfigError):
        load_config(Config, None, [f"{key}={value}"])


@SAME_FOLDER
@given(data=st.binary(max_size=60) | TEXT.map(str.encode))
@pytest.mark.parametrize("settings_class", [Config, PrepareConfig])
def test_any_yaml_is_taken_or_refused_as_a_config_error(tmp_path, settings_class, data):
    path = tmp_path / "config.yaml"
    path.write_bytes(data)
    refusal = refusal_of(ConfigError, load_config, settings_class, path)
    assert refusal is None or str(path) in refusal


@SAME_FOLDER
@given(data=st.binary(max_size=80) | st.binary(max_size=80).map(lambda tail: b"path,label\n" + tail))
def test_any_labels_file_is_read_or_refused_as_a_label_error(tmp_path, data):
    path = tmp_path / "labels.csv"
    path.write_bytes(data)
    refusal = refusal_of(LabelError, read_labels, path, ["a.mp4", "b/c.mp4"])
    assert refusal is None or str(path) in refusal


@SAME_FOLDER
@given(values=st.lists(TEXT, min_size=1, max_size=8))
def test_labels_come_back_as_written(tmp_path, values):
    names = [f"{number} \N{SMILING FACE WITH OPEN MOUTH} é.mp4" for number in range(len(values))]
    buffer = io.StringIO(newline="")
    csv.writer(buffer).writerows([("path", "label"), *zip(names, values, strict=True)])
    path = tmp_path / "labels.csv"
    path.write_bytes(buffer.getvalue().encode())
    assert [read_labels(path, names).by_source[name]["label"] for name in names] == [value.strip() for value in values]


def test_ten_thousand_classes_come_back(tmp_path):
    names = [f"{number}.mp4" for number in range(10_000)]
    path = tmp_path / "labels.csv"
    path.write_text("path,label\n" + "".join(f"{name},class {name}\n" for name in names))
    assert len({values["label"] for values in read_labels(path, names).by_source.values()}) == 10_000


@SAME_FOLDER
@given(data=st.binary(max_size=200) | st.binary(max_size=200).map(lambda tail: b"\xff\xd8\xff" + tail))
def test_any_bytes_are_a_jpeg_or_not_whatever_lies_beside_them(data):
    image = jpeg(64, 48, b"picture")
    rows = [data, image, image[:-9], jpeg(48, 64, b"picture")]
    images = np.zeros((len(rows), 300), np.uint8)
    for target, row in zip(images, rows, strict=True):
        target[: len(row)] = np.frombuffer(row, np.uint8)
    lengths, shapes = np.array([len(row) for row in rows]), np.tile([48, 64], (len(rows), 1))
    alone = _are_jpegs(np.frombuffer(data, np.uint8)[None], lengths[:1], shapes[:1])
    assert _are_jpegs(images, lengths, shapes).tolist() == [*alone.tolist(), True, False, False]
