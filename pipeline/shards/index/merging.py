"""Adds rows to those of an earlier manifest; only the new rows are looked at one by one."""

from __future__ import annotations

import itertools
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.shards.manifest import COLUMNS


@dataclass(frozen=True, kw_only=True)
class RowBlock:
    """n rows of a manifest as arrays, in any order.

    Attributes:
        columns: the arrays of `COLUMNS`, [n] each.
        frame_counts: int [n], number of frame offsets of each row; 0 without video.
        frame_offsets: the frame offsets of all rows, one after the other.
        sources: the source of each row, as UTF-8.
        labels: the different labels, column -> text.
        label_codes: int [n], which of `labels` each row has.
    """

    columns: Mapping[str, NDArray[Any]]
    frame_counts: NDArray[Any]
    frame_offsets: NDArray[Any]
    sources: Sequence[bytes]
    labels: Sequence[Mapping[str, str]]
    label_codes: NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class PreviousRows:
    """Rows of an earlier manifest.

    Attributes:
        arrays: its arrays, which may be memory-mapped.
        keep: bool [n], which of its rows belong to the new manifest.
        shard: int32 [n], index of each row's shard among the new shards; rows that are not kept may have any.
    """

    arrays: Mapping[str, NDArray[Any]]
    keep: NDArray[np.bool_]
    shard: NDArray[np.int32]


class SameSource(Exception):
    """A new row has the source of an old one."""


class _Run(NamedTuple):
    """Consecutive rows of the old manifest or, if `is_new`, of the new rows."""

    is_new: bool
    begin: int
    end: int


def merged(previous: PreviousRows, new: Mapping[str, NDArray[Any]], *, columns: int) -> dict[str, NDArray[Any]]:
    """Returns the arrays of the manifest of both, sorted by source.

    Args:
        new: the arrays of the manifest of the new rows alone.
        columns: number of label columns, which both have.

    Raises:
        SameSource: a kept row has the source of a new one.
    """
    old = {**previous.arrays, "shard": previous.shard}
    runs = list(_runs(previous.keep, _places(old, new, previous.keep)))

    def joined(name: str) -> NDArray[Any]:
        return _join([(new if run.is_new else old)[name][run.begin : run.end] for run in runs], new[name].dtype)

    result = {name: joined(name) for name in COLUMNS}
    for data, start in (("frame_offsets", "frame_start"), ("source_bytes", "source_start")):
        pieces, lengths = [], []
        for run in runs:
            arrays = new if run.is_new else old
            bounds = arrays[start][run.begin : run.end + 1]
            pieces.append(arrays[data][bounds[0] : bounds[-1]])
            lengths.append(np.diff(bounds))
        result[start] = np.concatenate([[0], np.cumsum(_join(lengths, np.dtype(np.int64)))]).astype(np.int64)
        result[data] = _join(pieces, new[data].dtype)
    for name in (f"label{column}" for column in range(columns)):
        names = sorted({*_texts(old, f"{name}_names"), *_texts(new, f"{name}_names")})
        code = {text: number for number, text in enumerate(names)}
        renumbered = {}
        for is_new, arrays in ((False, old), (True, new)):
            # The extra entry at the end maps code -1 to -1.
            numbers = np.array([*(code[text] for text in _texts(arrays, f"{name}_names")), -1], np.int32)
            renumbered[is_new] = numbers[arrays[name]]
        result[name] = _join([renumbered[run.is_new][run.begin : run.end] for run in runs], np.dtype(np.int32))
        result |= _without_unused(name, result[name], names)
    return result


def pack_text(name: str, texts: Sequence[bytes]) -> dict[str, NDArray[Any]]:
    """Packs strings as their concatenated bytes and the offset of each."""
    lengths = np.array([len(text) for text in texts], dtype=np.int64)
    return {
        f"{name}_start": np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        f"{name}_bytes": np.frombuffer(b"".join(texts), dtype=np.uint8),
    }


def find_source(arrays: Mapping[str, NDArray[Any]], source: bytes) -> tuple[int, bool]:
    """Returns where a source is, or would be, among the sorted rows of a manifest, and whether it is there."""
    start, data = arrays["source_start"], arrays["source_bytes"]

    def text(row: int) -> bytes:
        return data[start[row] : start[row + 1]].tobytes()

    rows = range(len(start) - 1)
    place = bisect_left(rows, source, key=text)
    return place, place < len(rows) and text(place) == source


def _places(old: Mapping[str, NDArray[Any]], new: Mapping[str, NDArray[Any]], keep: NDArray[np.bool_]) -> Iterator[int]:
    """Yields for each new row the number of old rows, kept or not, before it."""
    data = new["source_bytes"].tobytes()
    for begin, end in itertools.pairwise(new["source_start"].tolist()):
        place, is_there = find_source(old, data[begin:end])
        if is_there and keep[place]:
            raise SameSource
        yield place


def _runs(keep: NDArray[np.bool_], places: Iterator[int]) -> Iterator[_Run]:
    """Yields the runs of which the merged rows consist; `places` are where the new rows are inserted."""
    inserted = [(place, len(list(group))) for place, group in itertools.groupby(places)]
    edges = np.flatnonzero(np.diff(keep, prepend=False, append=False)).tolist()
    first = number = 0
    for begin, end in zip(edges[::2], edges[1::2], strict=True):
        while number < len(inserted) and inserted[number][0] <= end:
            place, count = inserted[number]
            if place > begin:
                yield _Run(False, begin, place)
                begin = place
            yield _Run(True, first, first + count)
            first, number = first + count, number + 1
        if begin < end:
            yield _Run(False, begin, end)
    if count := sum(count for _, count in inserted[number:]):
        yield _Run(True, first, first + count)


def _join(pieces: Sequence[NDArray[Any]], dtype: np.dtype[Any]) -> NDArray[Any]:
    return np.concatenate(pieces) if pieces else np.zeros(0, dtype)


def _texts(arrays: Mapping[str, NDArray[Any]], name: str) -> list[str]:
    data = arrays[f"{name}_bytes"].tobytes()
    return [data[begin:end].decode("utf-8") for begin, end in itertools.pairwise(arrays[f"{name}_start"].tolist())]


def _without_unused(name: str, codes: NDArray[np.int32], names: Sequence[str]) -> dict[str, NDArray[Any]]:
    """The codes and names of a label column without names that no row has any more."""
    used = np.zeros(len(names), dtype=bool)
    used[codes[codes >= 0]] = True
    numbers = np.append(np.where(used, np.cumsum(used) - 1, -1), -1).astype(np.int32)
    kept = [text.encode("utf-8") for text, is_used in zip(names, used, strict=True) if is_used]
    return {name: numbers[codes], **pack_text(f"{name}_names", kept)}
