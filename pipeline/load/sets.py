"""Selects the samples of each data set that a run trains on, by data.split, data.leave_out and data.weights."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from pipeline.plan.clips import ClipSource
from pipeline.plan.leave_out import find_left_out
from pipeline.plan.mixture import drawn_per_pass
from pipeline.plan.selection import Selection
from pipeline.plan.weights import (
    check_weights,
    digest_of,
    is_file,
    require_some,
    weights_of_file,
    weights_of_labels,
)
from pipeline.shards.mix import MixedManifest
from pipeline.suitability import check_split_column
from settings import DataConfig, MixedSetConfig
from settings.errors import ConfigError
from settings.load import format_names


class Dataset(ClipSource, Protocol):
    """A data set of n samples with labels."""

    shard: np.ndarray
    """int [n], the shard of each sample; needed for data.order=shards."""
    sample_rate: int
    """Sample rate of the audio in Hz."""
    label_columns: list[str]
    fingerprint: str
    """Identifies the content of the data set."""

    def __len__(self) -> int: ...
    def source(self, index: int) -> str: ...

    def rows(self, sources: Sequence[str]) -> np.ndarray: ...
    def labels(self, column: str) -> np.ndarray: ...
    def label_names(self, column: str) -> list[str]: ...


@dataclass(frozen=True, kw_only=True)
class SelectedSet:
    """The samples of one data set that a run trains on.

    Attributes:
        key: prefix of its settings, such as `data.mix.NAME.`
        dataset: the data set itself.
        first: offset that turns an id of this data set into an id of the mix; 0 if there is only one data set.
        weight: weight of the data set in the mix.
        ids: the selected samples, as ids in `dataset`.
        weights: float64 [len(ids)], the weights of the selected samples, all above 0; None without data.weights.
        split_size: number of samples of the split, of which data.leave_out and weights of 0 may leave out some.
        left_out_hash: hash of the sources in data.leave_out; empty without such a list.
        weights_hash: hash of the weights; empty without data.weights.
    """

    key: str
    dataset: Dataset
    first: int
    weight: float
    ids: Selection
    weights: np.ndarray | None
    split_size: int
    left_out_hash: str
    weights_hash: str

    @property
    def drawn(self) -> int:
        """Number of samples that a pass through the data set draws."""
        return len(self.ids) if self.weights is None else drawn_per_pass(self.weights)


def select_sets(dataset: Dataset | MixedManifest, data: DataConfig) -> list[SelectedSet]:
    """Selects the samples of each data set of a mix, or of the only data set.

    Raises:
        ConfigError: a split, a list to leave out or weights do not fit their data set, or no sample of a data set of a
            mix is left.
    """
    if not isinstance(dataset, MixedManifest):
        ((key, one),) = data.sets.items()
        return [_select(dataset, one, key=key, first=0)]
    manifests, firsts = dataset.parts.values(), dataset.firsts.tolist()
    found = [
        _select(manifest, one, key=key, first=first)
        for (key, one), manifest, first in zip(data.sets.items(), manifests, firsts, strict=True)
    ]
    for selected in found:
        if not len(selected.ids):
            raise ConfigError(
                f"{selected.key}path: no sample of {data.sets[selected.key].path} is left to train on: check "
                f"{selected.key}split and {selected.key}leave_out"
            )
    return found


def select_samples(dataset: Dataset | MixedManifest, sets: Sequence[SelectedSet]) -> Selection:
    """Returns the samples of all `sets`, as ids of the mix, or of the only data set."""
    if len(sets) == 1:
        return sets[0].ids
    chosen = np.zeros(len(dataset), dtype=bool)
    for one in sets:
        chosen[np.asarray(one.ids) + one.first] = True
    return Selection(len(dataset), lambda part: chosen[part])


def mixture_parts(sets: Sequence[SelectedSet]) -> tuple[tuple[int, float], ...]:
    """Returns `Resources.parts`: for each data set, the number of samples per pass and its share of the clips.

    It is empty for a single data set without weights.
    """
    if len(sets) == 1 and sets[0].weights is None:
        return ()
    return tuple((one.drawn, share) for one, share in zip(sets, shares_of(sets), strict=True))


def shares_of(sets: Sequence[SelectedSet]) -> list[float]:
    """Returns the shares of the data sets, which are proportional to their weights and sum to 1."""
    largest = max(one.weight for one in sets)  # the sum of the weights themselves may be too large for a float
    weights = np.array([one.weight / largest for one in sets])
    return (weights / weights.sum()).tolist()


def describe_selection(sets: Sequence[SelectedSet], data: DataConfig) -> list[str]:
    """Says in sentences what data.leave_out and data.weights leave out, and what share each data set of a mix has."""
    lines = []
    total = sum(len(one.ids) for one in sets)
    for one, share in zip(sets, shares_of(sets), strict=True):
        settings, used = data.sets[one.key], len(one.ids)
        sources = " and ".join(filter(None, (settings.leave_out, settings.weights)))
        if sources:
            verb = "leave" if settings.leave_out and settings.weights else "leaves"
            lines.append(f"{sources} {verb} out {one.split_size - used:,} samples; training on the other {used:,}")
        if one.weights is not None:
            lines.append(f"by {one.key}weights={settings.weights} a pass holds {one.drawn:,} of the {used:,} samples")
        if data.mix:
            lines.append(
                f"{settings.path}: {share:.1%} of the clips from {used:,} samples, each about "
                f"{share * total / used:.3g} times per epoch"
            )
    return lines


def select_split(dataset: Dataset, split: str, *, key: str = "data.") -> Selection:
    """Returns the samples whose value in the label column `split` is `split`; all samples if that is empty.

    Args:
        key: prefix of the data set's settings, for messages.

    Raises:
        ConfigError: there is no label column `split`, or no such value in it.
    """
    if not split:
        return Selection(len(dataset))
    check_split_column(split, dataset.label_columns, key=key)
    names = dataset.label_names("split")
    if split not in names:
        near = difflib.get_close_matches(split, names, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise ConfigError(
            f"{key}split={split!r} is not a value of the label split; {hint}there are: {format_names(names)}"
        )
    codes, code = np.asarray(dataset.labels("split")), names.index(split)
    return Selection(len(dataset), lambda part: codes[part] == code)


def _select(dataset: Dataset, one: MixedSetConfig, *, key: str, first: int) -> SelectedSet:
    ids = select_split(dataset, one.split, key=key)
    split_size, left_out_hash, weights_hash, weights = len(ids), "", "", None
    if one.leave_out:
        left_out, left_out_hash = find_left_out(dataset.rows, Path(one.leave_out), data=one.path)
        ids = ids.without(left_out)
    if one.weights:
        numbers = np.asarray(ids)
        weights = _weights(dataset, numbers, one, key=f"{key}weights")
        weights_hash = digest_of(weights)
        ids, weights = ids.without(numbers[weights == 0]), weights[weights > 0]
    return SelectedSet(
        key=key,
        dataset=dataset,
        first=first,
        weight=one.weight,
        ids=ids,
        weights=weights,
        split_size=split_size,
        left_out_hash=left_out_hash,
        weights_hash=weights_hash,
    )


def _weights(dataset: Dataset, ids: np.ndarray, one: MixedSetConfig, *, key: str) -> np.ndarray:
    """Returns the weights, float64 [n], of the samples `ids`, int64 [n] in ascending order."""
    if is_file(one.weights):
        weights = weights_of_file(
            Path(one.weights), ids, rows=dataset.rows, source=dataset.source, key=key, data=one.path
        )
    else:
        check_weights(one.weights, dataset.label_columns, key=key)
        codes = np.asarray(dataset.labels(one.weights))[ids]
        names = dataset.label_names(one.weights)
        weights = weights_of_labels(codes, names, lambda row: dataset.source(int(ids[row])), key=f"{key}={one.weights}")
    require_some(weights, key=f"{key}={one.weights}")
    return weights
