"""Weights of samples: their files, their columns, and their mistakes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipeline.plan.weights import (
    check_weights,
    digest_of,
    read_weights,
    require_some,
    weights_of_file,
    weights_of_labels,
)
from settings import ConfigError

KEY = "data.mix.mine.weights"


def test_a_file_gives_sources_their_weights(tmp_path: Path):
    path = tmp_path / "w.csv"
    path.write_text('\ufeffreason,weight,source\nx,1e-1,"a, b.mp4"\ny,2,c.mp4\nz, 0 ,d.mp4\n', encoding="utf-8")
    assert read_weights(path, key=KEY) == {"a, b.mp4": 0.1, "c.mp4": 2.0, "d.mp4": 0.0}
    sources = ["a, b.mp4", "c.mp4", "d.mp4"]
    assert weights(path, np.array([1, 2]), sources).tolist() == [2.0, 0.0]


def weights(path: Path, ids: np.ndarray, sources: list[str]) -> np.ndarray:
    def rows(wanted: list[str]) -> np.ndarray:
        return np.array([sources.index(source) if source in sources else -1 for source in wanted])

    return weights_of_file(path, ids, rows=rows, source=sources.__getitem__, key=KEY, data="data")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (None, r"cannot read the weights .*w.csv: No such file"),
        (b"a.mp4,1\n", r"w.csv needs a column source and a column weight; it has: a.mp4, 1"),
        (b"source,weigth\na,1\n", r"needs a column weight; it has: source, weigth"),
        (b"", r"needs a column source and a column weight; it has: none"),
        (b"\xff\xfe\x00", "is not a CSV file in UTF-8"),
        (b'source,weight\n"open', "is not a CSV file in UTF-8"),
        (b"source,weight\na,one\n", "gives 'a' the weight 'one', which is not a number"),
        (b"source,weight\na,\n", "gives 'a' the weight '', which is not a number"),
        (b"source,weight\na,-1\n", "gives 'a' the weight -1: weights must be finite and at least 0"),
        (b"source,weight\na,nan\n", "gives 'a' the weight nan: weights must be finite"),
        (b"source,weight\na,1e999\n", "gives 'a' the weight 1e999: weights must be finite"),
        (b"source,weight\na,1\na,2\n", "gives 'a' two different weights"),
    ],
)
def test_a_file_that_cannot_be_used_is_an_error_that_names_the_setting(tmp_path: Path, data, message):
    if data is not None:
        (tmp_path / "w.csv").write_bytes(data)
    with pytest.raises(ConfigError, match=f"^{KEY}: .*{message}"):
        check_weights(str(tmp_path / "w.csv"), [], key=KEY)


def test_sources_that_are_unknown_or_missing_are_errors(tmp_path: Path):
    path = tmp_path / "w.csv"
    path.write_text("source,weight\na,1\nx1,1\nx2,1\nx3,1\nx4,1\n")
    with pytest.raises(ConfigError, match=r"that data does not have: 'x1', 'x2', 'x3' and 1 more; remove"):
        weights(path, np.array([0]), ["a", "b"])
    path.write_text("source,weight\na,1\n")
    assert weights(path, np.array([0]), ["a", "b"]).tolist() == [1.0]
    with pytest.raises(ConfigError, match=r"gives no weight to 1 samples of data: 'b'; add them, with the weight 0"):
        weights(path, np.array([0, 1]), ["a", "b"])
    with pytest.raises(ConfigError, match="gives no weight to 25 samples of data: 'b', 'c', 'd' and 22 more; add"):
        weights(path, np.arange(26), list("abcdefghijklmnopqrstuvwxyz"))


def test_a_label_column_gives_weights():
    names, codes = ["0", "1.5", "3e-1", "huge"], np.array([1, 0, 2, 1])
    assert weights_of_labels(codes, names, "abcd".__getitem__, key=KEY).tolist() == [1.5, 0.0, 0.3, 1.5]


@pytest.mark.parametrize(
    ("codes", "message"),
    [
        ([0, 3, 1], f"^{KEY}=c gives 'b' the weight 'huge', which is not a number"),
        ([2, 0, 0], f"^{KEY}=c gives 'a' the weight -1: weights must be finite and at least 0"),
        ([0, -1, -1], f"^{KEY}=c: 2 of 3 samples have no label in this column: 'b', 'c'; attach"),
        ([-1] * 9, f"^{KEY}=c: 9 of 9 samples have no label in this column: 'a', 'b', 'c' and 6 more; attach"),
    ],
)
def test_labels_that_are_no_weights_are_errors(codes, message):
    with pytest.raises(ConfigError, match=message):
        weights_of_labels(np.array(codes), ["0", "1", "-1", "huge"], "abc".__getitem__, key=f"{KEY}=c")


def test_a_column_must_exist_and_some_weight_must_be_above_0():
    check_weights("c", ["b", "c"], key=KEY)
    with pytest.raises(ConfigError, match=f"{KEY}='d' is neither a label column .there are: b, c. nor a CSV file"):
        check_weights("d", ["b", "c"], key=KEY)
    with pytest.raises(ConfigError, match="all 3 samples have the weight 0"):
        require_some(np.zeros(3), key=KEY)


def test_the_hash_is_that_of_the_weights_in_their_order():
    one = np.array([1.0, 2.0])
    assert digest_of(one) == digest_of(one.copy()) != digest_of(one[::-1].copy())
