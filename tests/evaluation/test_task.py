"""Splits, label columns, and what is said when they do not fit."""

from __future__ import annotations

import numpy as np
import pytest

from evaluation.task import choose_labels, make_split, make_splits, make_task, retrieval_split
from settings import ConfigError


class Table:
    """A data set of labels only."""

    def __init__(self, n=200, **columns):
        self.n, self.columns, self.label_columns = n, columns, list(columns)

    def __len__(self):
        return self.n

    def source(self, index):
        return f"video_{index}.mp4"

    def labels(self, column):
        names = self.label_names(column)
        return np.array([names.index(value) if value else -1 for value in self.columns[column]], np.int32)

    def label_names(self, column):
        return sorted({value for value in self.columns[column] if value})


def test_the_split_column_decides_and_other_values_are_left_out():
    split = make_split(Table(4, split=["train", "val", "test", ""]), seed=0)
    assert split.train.tolist() == [True, False, False, False]
    assert split.test.tolist() == [False, False, True, False]
    assert "split" in split.origin


def test_a_split_column_without_test_is_an_error_that_says_what_it_holds():
    with pytest.raises(ConfigError, match="holds dev, train; evaluation needs train and test"):
        make_split(Table(2, split=["train", "dev"]), seed=0)


def test_without_test_samples_the_validation_part_is_tested_and_it_says_so():
    split = make_split(Table(3, split=["train", "validate", ""]), seed=0)
    assert split.test.tolist() == [False, True, False]
    assert split.origin == "label column split, tested on validate"


def test_further_split_columns_come_in_the_order_of_their_numbers_and_are_no_labels():
    parts = {f"split{number}": [""] * 9 + ["train", "test"] for number in (10, 2)}
    table = Table(11, kind=list("ab" * 5 + "a"), **parts, split=["train"] * 6 + ["test"] * 5)
    origins = [split.origin for split in make_splits(table, seed=0)]
    assert origins == ["label column split", "label column split2", "label column split10"]
    assert choose_labels(table, None) == ["kind"]


def test_without_a_split_column_a_hash_of_the_source_takes_about_a_fifth():
    split = make_split(Table(2000), seed=0)
    assert (split.train ^ split.test).all()
    assert split.test.mean() == pytest.approx(0.2, abs=0.03)
    assert "hash of seed 0" in split.origin


def test_a_samples_part_does_not_depend_on_what_else_is_in_the_data():
    few, many = make_split(Table(50), seed=1), make_split(Table(300), seed=1)
    assert (few.test == many.test[:50]).all()
    assert (make_split(Table(300), seed=2).test != many.test).any()


def test_an_unknown_label_column_names_those_there_are():
    table = Table(2, kind=["a", "b"], speed=["x", "y"], split=["train", "test"])
    with pytest.raises(ConfigError, match=r"--label colour.*the label columns kind, speed$"):
        make_task(table, "colour", make_split(table, seed=0))


def test_a_column_with_one_known_class_is_refused():
    table = Table(4, kind=["a", "", "a", "b"], split=["train", "train", "test", "test"])
    with pytest.raises(ConfigError, match="1 classes in 1 training samples, and 2 test samples"):
        make_task(table, "kind", make_split(table, seed=0))


def test_unknown_labels_are_in_neither_part():
    table = Table(5, kind=["a", "b", "", "a", ""], split=["train", "train", "train", "test", "test"])
    task = make_task(table, "kind", make_split(table, seed=0))
    assert task.train.tolist() == [True, True, False, False, False]
    assert task.test.tolist() == [False, False, False, True, False]


def test_majority_is_that_of_the_training_part():
    table = Table(6, kind=list("aabbba"), split=["train"] * 3 + ["test"] * 3)
    task = make_task(table, "kind", make_split(table, seed=0))
    assert task.majority_correct().tolist() == [False, False, True]
    assert task.majority_correct(k=2).all()


def test_retrieval_may_take_the_training_part_or_all_samples():
    table = Table(4, split=["train", "train", "test", ""])
    wanted = {name: retrieval_split(table, name, seed=0) for name in ("auto", "train", "all")}
    assert {name: np.flatnonzero(split.test).tolist() for name, split in wanted.items()} == {
        "auto": [2],
        "train": [0, 1],
        "all": [0, 1, 2, 3],
    }
    assert wanted["train"].origin == "the training part of label column split"


def test_the_only_column_needs_no_naming_but_several_do():
    assert choose_labels(Table(1, kind=["a"], split=["train"]), None) == ["kind"]
    assert choose_labels(Table(1, kind=["a"], speed=["b"]), "speed, kind,speed") == ["speed", "kind"]
    with pytest.raises(ConfigError, match="--label: the data set has the label columns kind, speed"):
        choose_labels(Table(1, kind=["a"], speed=["b"]), None)
    with pytest.raises(ConfigError, match="no label columns"):
        choose_labels(Table(1), None)


def test_parts_of_one_file_are_in_the_same_part_of_the_split():
    sources = [f"{number}.mp4#t={start},{start + 10}" for number in range(40) for start in (0, 10, 20)]

    class Parts(Table):
        def source(self, index):
            return sources[index]

    train = make_split(Parts(len(sources)), seed=0).train.reshape(40, 3)
    assert (train.all(axis=1) | ~train.any(axis=1)).all()
    assert 20 < train[:, 0].sum() < 40
