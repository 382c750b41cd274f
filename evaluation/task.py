"""A task: which label is predicted, and which samples are used for fitting and for testing."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from common.randomness import uniform_of_text
from evaluation.columns import SPLIT_COLUMN, is_split, require_label
from evaluation.columns import choose_labels as choose_labels
from pipeline.lists.spans import split_fragment
from settings import ConfigError
from settings.load import format_names

TEST_NAMES = ("test", "validation", "validate", "val")
"""Names of the tested part, in order of preference: Kinetics withholds the labels of its test part."""
TRAIN_SHARE = 0.8


class LabelledData(Protocol):
    """The part of a data set that evaluation reads; pipeline.shards.manifest.Manifest implements it."""

    label_columns: list[str]

    def __len__(self) -> int: ...
    def source(self, index: int) -> str: ...
    def labels(self, column: str) -> np.ndarray: ...
    def label_names(self, column: str) -> list[str]: ...


@dataclass(frozen=True, kw_only=True)
class Split:
    """Masks of the samples for fitting and for testing; samples in neither are not used."""

    train: np.ndarray
    """Samples to fit, bool [n]."""
    test: np.ndarray
    """Samples to test, bool [n]."""
    origin: str
    """Description of the source of the split."""

    def rows(self, ids: np.ndarray) -> Split:
        """The split of only these samples, in this order."""
        return replace(self, train=self.train[ids], test=self.test[ids])


@dataclass(frozen=True, kw_only=True)
class Task:
    """A label column over the samples of a split."""

    label: str
    codes: np.ndarray
    """Classes, int32 [n]; -1 for an unknown label."""
    split: Split

    @property
    def train(self) -> np.ndarray:
        """Training samples with a known label, bool [n]."""
        return self.split.train & (self.codes >= 0)

    @property
    def test(self) -> np.ndarray:
        """Test samples with a known label, bool [n]."""
        return self.split.test & (self.codes >= 0)

    def rows(self, ids: np.ndarray) -> Task:
        """The task over only these samples, in this order."""
        return replace(self, codes=self.codes[ids], split=self.split.rows(ids))

    def majority_correct(self, k: int = 1) -> np.ndarray:
        """Whether each test sample's class is among the k most frequent ones of the training part, bool [tests]."""
        counts = np.bincount(self.codes[self.train])
        return np.isin(self.codes[self.test], np.argsort(-counts, kind="stable")[:k])


def retrieval_split(data: LabelledData, wanted: str, *, seed: int) -> Split:
    """The split whose test part is searched by retrieval, which fits nothing.

    Args:
        wanted: the setting split: auto for the test part of `make_split`, train for its training part, all.
    """
    if wanted == "all":
        everything = np.ones(len(data), dtype=bool)
        return Split(train=~everything, test=everything, origin="all samples (split=all)")
    split = make_split(data, seed=seed)
    if wanted == "train":
        return Split(train=split.test, test=split.train, origin=f"the training part of {split.origin}")
    return split


def make_split(data: LabelledData, *, seed: int) -> Split:
    """The split in the label column `split` if there is one, otherwise 80/20 by a hash of (seed, source path).

    Segments and windows of one file are in the same part.

    Raises:
        ConfigError: the column `split` has no train or no test samples.
    """
    if SPLIT_COLUMN in data.label_columns:
        return _column_split(data, SPLIT_COLUMN)
    files = (split_fragment(data.source(index))[0] for index in range(len(data)))
    shares = np.array([uniform_of_text(f"{seed} {file}") for file in files])
    origin = f"hash of seed {seed} and source path, {TRAIN_SHARE:.0%} train (there is no label column split)"
    return Split(train=shares < TRAIN_SHARE, test=shares >= TRAIN_SHARE, origin=origin)


def make_splits(data: LabelledData, *, seed: int) -> list[Split]:
    """The split of `make_split`, followed by those of the label columns split2, split3, ...

    Raises:
        ConfigError: one of the columns has no train or no test samples.
    """
    further = [column for column in data.label_columns if is_split(column) and column != SPLIT_COLUMN]
    further.sort(key=lambda column: int(column.removeprefix(SPLIT_COLUMN)))
    return [make_split(data, seed=seed), *(_column_split(data, column) for column in further)]


def _column_split(data: LabelledData, column: str) -> Split:
    codes, names = data.labels(column), data.label_names(column)
    test = next((name for name in TEST_NAMES if name in names), None)
    if "train" not in names or test is None:
        raise ConfigError(
            f"the label column {column} holds {format_names(names)}; evaluation needs train and test in it"
        )
    origin = f"label column {column}" if test == "test" else f"label column {column}, tested on {test}"
    return Split(train=codes == names.index("train"), test=codes == names.index(test), origin=origin)


def make_task(data: LabelledData, label: str, split: Split) -> Task:
    """The task of predicting a label column.

    Raises:
        ConfigError: there is no such column, fewer than two classes to fit, or no test sample.
    """
    require_label(data, label)
    task = Task(label=label, codes=np.asarray(data.labels(label)), split=split)
    classes = np.unique(task.codes[task.train])
    if len(classes) < 2 or not task.test.any():
        raise ConfigError(
            f"--label {label}: a probe needs two classes in the training part and samples in the test part; the data "
            f"have {len(classes)} classes in {task.train.sum()} training samples, and {task.test.sum()} test samples"
        )
    return task
