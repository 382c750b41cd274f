"""Selects the samples that a run trains on: by data.split, data.leave_out and data.weights, of each data set."""

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
    """int [n], the shard of each sample (for data.order: shards)."""
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
        first: what is added to an id of this data set to make it one of the mix; 0 for a data set that is alone.
        weight: its weight among the data sets.
        ids: the samples, as ids in `dataset`.
        weights: float64 [n], weights above 0; None without data.weights.
        split_size: number of samples before the list data.leave_out and weights of 0 left some out.
        left_out: hash of the sources in data.leave_out; empty without such a list.
        weighed: hash of the weights; empty without data.weights.
    """

    key: str
    dataset: Dataset
    first: int
    weight: float
    ids: Selection
    weights: np.ndarray | None
    split_size: int
    left_out: str
    weighed: str

    @property
    def drawn(self) -> int:
        """Number of samples of a pass through the data set."""
        return len(self.ids) if self.weights is None else drawn_per_pass(self.weights)


def select_sets(dataset: Dataset | MixedManifest, data: DataConfig) -> list[SelectedSet]:
    """Selects the samples of each data set of a mix, or of the only one.

    Raises:
        ConfigError: as for `select_split`, `find_left_out` and pipeline.plan.weights, or none are left of a data set of
            a mix.
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
    """Returns all samples of the selected sets, as ids of the mix."""
    if len(sets) == 1:
        return sets[0].ids
    chosen = np.zeros(len(dataset), dtype=bool)
    for one in sets:
        chosen[np.asarray(one.ids) + one.first] = True
    return Selection(len(dataset), lambda part: chosen[part])


def mixture_parts(sets: Sequence[SelectedSet]) -> tuple[tuple[int, float], ...]:
    """Returns `Resources.parts`: of each data set the number of samples of a pass, and its share of the samples.

    Empty for one data set without weights.
    """
    if len(sets) == 1 and sets[0].weights is None:
        return ()
    return tuple((one.drawn, share) for one, share in zip(sets, shares_of(sets), strict=True))


def shares_of(sets: Sequence[SelectedSet]) -> list[float]:
    """Returns the share of each data set, which are proportional to the weights and sum to 1."""
    largest = max(one.weight for one in sets)  # the sum of the weights themselves may be too large for a float
    weights = np.array([one.weight / largest for one in sets])
    return (weights / weights.sum()).tolist()


def describe_selection(sets: Sequence[SelectedSet], data: DataConfig) -> list[str]:
    """Says in sentences what data.leave_out and data.weights leave out, and how the data sets of a mix are shared."""
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
    """Returns the samples whose label "split" equals `split`; all samples if `split` is empty.

    Args:
        key: prefix of the settings of the data set, for messages.

    Raises:
        ConfigError: there is no such label column, or no such value in it.
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
    count, left_out, weighed, weights = len(ids), "", "", None
    if one.leave_out:
        left, left_out = find_left_out(dataset.rows, Path(one.leave_out), data=one.path)
        ids = ids.without(left)
    if one.weights:
        numbers = np.asarray(ids)
        weights = _weights(dataset, numbers, one, key=f"{key}weights")
        weighed = digest_of(weights)
        ids, weights = ids.without(numbers[weights == 0]), weights[weights > 0]
    return SelectedSet(
        key=key,
        dataset=dataset,
        first=first,
        weight=one.weight,
        ids=ids,
        weights=weights,
        split_size=count,
        left_out=left_out,
        weighed=weighed,
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
