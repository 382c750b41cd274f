"""Writes the manifest of a prepared data set.

`OUT/manifest/meta.json` names the current version, a folder of .npy files next to it. Replacing this one small file
publishes a new version, so a reader sees either the old version or the new one, never a mixture.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import shutil
from array import array
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.files import file_sha256, make_folder, replacing, sync, write_atomically, writer
from pipeline.shards.index.merging import PreviousRows, RowBlock, merged, pack_text
from pipeline.shards.manifest import COLUMNS
from pipeline.shards.meta import FORMAT, is_version, sealed
from settings import StorageConfig

_COPIED = 2**14
"""Samples whose frame offsets are copied at once."""


def write_manifest(
    root: Path,
    rows: Iterable[Mapping[str, Any] | RowBlock],
    *,
    shards: Sequence[str],
    shard_bytes: Sequence[int],
    shard_sha256: Sequence[str] = (),
    label_columns: Sequence[str],
    storage: StorageConfig,
    sample_rate: int,
    streams: str,
    previous: PreviousRows | None = None,
) -> dict[str, NDArray[Any]]:
    """Publishes the manifest of `rows` in the folder `root` and returns its arrays.

    Args:
        rows: one mapping per sample with the keys source, shard (index into `shards`), video_offset, first_frame (bytes
            before the first frame in the video blob), frame_bytes (sizes of the frames), width, height, audio_offset,
            audio_samples, labels (column -> text) and, if the sample has checksums, checksum_offset; or many samples
            at once, as a RowBlock.
        shards, shard_bytes: names and sizes of the shard files.
        shard_sha256: SHA-256 of each shard, empty if unknown; by default all are unknown.
        label_columns: names of the label columns.
        storage: how the video is encoded.
        sample_rate: sampling rate of the audio, in Hz.
        streams: which tracks every sample has: both, video or audio.
        previous: rows of an earlier manifest with the same label columns, which belong to this one too.

    Raises:
        SameSource: a row and one of `previous` have the same source.
    """
    table = _Table(label_columns)
    for row in rows:
        if isinstance(row, RowBlock):
            table.extend(row)
        else:
            table.append(row)
    arrays = table.arrays()
    if previous is not None:
        arrays = merged(previous, arrays, columns=len(label_columns))
    content = [dataclasses.asdict(storage), sample_rate, list(label_columns)]
    fingerprint, layout = _hashes(arrays, content, shards)
    meta = {
        "format": FORMAT,
        "version": f"{fingerprint}-{layout}",
        "fingerprint": fingerprint,
        "samples": len(arrays["frames"]),
        "streams": streams,
        "sample_rate": sample_rate,
        "storage": dataclasses.asdict(storage),
        "label_columns": list(label_columns),
        "shards": list(shards),
        "shard_bytes": list(shard_bytes),
        "shard_sha256": list(shard_sha256) or [""] * len(shards),
    }
    publish_manifest(root / "manifest", meta, arrays)
    return arrays


def _hashes(arrays: Mapping[str, NDArray[Any]], content: Sequence[Any], shards: Sequence[str]) -> tuple[str, str]:
    """The fingerprint, which depends only on the content, and a hash of how the shards are cut."""
    digest = hashlib.sha256(json.dumps(content).encode())
    places = ("shard", "video_offset", "audio_offset", "checksum_offset")
    for name in sorted(arrays):
        if name not in places:
            digest.update(name.encode())
            digest.update(np.ascontiguousarray(arrays[name]).data)
    layout = hashlib.sha256(json.dumps(list(shards)).encode())
    for name in places:
        layout.update(arrays[name].data)
    return digest.hexdigest()[:16], layout.hexdigest()[:8]


def publish_manifest(folder: Path, meta: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> None:
    """Writes `arrays` as version meta["version"] and then meta.json, with the checksums of both."""
    make_folder(folder)
    meta_path = folder / "meta.json"
    try:
        previous = json.loads(meta_path.read_text(encoding="utf-8"))["version"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        previous = None
    version = folder / meta["version"]
    if version.exists():
        _repair(version, arrays)
    else:
        unfinished = folder / f"{meta['version']}.{writer()}.tmp"
        try:
            unfinished.mkdir(exist_ok=True)
            _repair(unfinished, arrays)
            unfinished.rename(version)
        except BaseException as error:
            shutil.rmtree(unfinished, ignore_errors=True)
            if not (isinstance(error, OSError) and version.exists()):
                raise  # else another process or machine has just published this version
        sync(folder)
    hashes = {name: file_sha256(version / f"{name}.npy") for name in arrays}
    write_atomically(meta_path, sealed({**meta, "array_sha256": hashes}), durable=True)
    # An edited meta.json may name "" or "..": removing that would delete the complete manifest or the shards.
    if is_version(previous) and previous != meta["version"]:
        shutil.rmtree(folder / previous, ignore_errors=True)


def _repair(folder: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Writes the arrays that `folder` lacks or holds damaged, such that they survive a power failure."""
    for name, values in arrays.items():
        path = folder / f"{name}.npy"
        try:
            found = np.load(path, mmap_mode="r" if values.size else None, allow_pickle=False)
            if found.dtype == values.dtype and np.array_equal(found, values):
                continue
        except (OSError, ValueError, EOFError):
            pass
        with replacing(path) as unfinished:
            with unfinished.open("wb") as file:
                np.save(file, values, allow_pickle=False)
            sync(unfinished)
    sync(folder)


class _Table:
    """Collects rows in flat arrays, because a million dicts would take gigabytes."""

    def __init__(self, label_columns: Sequence[str]) -> None:
        self._columns = {name: array("q") for name in COLUMNS}
        self._sources: list[bytes] = []
        self._frame_offsets = array("I")
        self._frame_counts = array("q")
        self._label_columns = list(label_columns)
        self._label_codes = [array("i") for _ in label_columns]
        self._label_values: list[dict[str, int]] = [{} for _ in label_columns]

    def append(self, row: Mapping[str, Any]) -> None:
        sizes = row["frame_bytes"]
        if sizes:
            self._frame_offsets.extend(itertools.accumulate(sizes, initial=row["first_frame"]))
        self._frame_counts.append(len(sizes) + 1 if sizes else 0)
        numbers = {"checksum_offset": -1, **row, "frames": len(sizes)}
        for name, values in self._columns.items():
            values.append(numbers[name])
        self._sources.append(row["source"].encode("utf-8"))
        for column, codes, known in zip(self._label_columns, self._label_codes, self._label_values, strict=True):
            value = row["labels"].get(column, "")
            codes.append(known.setdefault(value, len(known)) if value else -1)

    def extend(self, block: RowBlock) -> None:
        """Appends many rows at once."""
        for name, values in self._columns.items():
            values.frombytes(block.columns[name].astype(np.int64).tobytes())
        self._frame_counts.frombytes(block.frame_counts.astype(np.int64).tobytes())
        self._frame_offsets.frombytes(block.frame_offsets.astype(np.uint32).tobytes())
        self._sources += block.sources
        for column, codes, known in zip(self._label_columns, self._label_codes, self._label_values, strict=True):
            texts = (labels.get(column, "") for labels in block.labels)
            new = [known.setdefault(text, len(known)) if text else -1 for text in texts]
            codes.frombytes(np.array(new, np.int32)[block.label_codes].tobytes())

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Returns all arrays of the manifest by name, with rows sorted by source path."""
        encoded = self._sources
        order = np.array(sorted(range(len(encoded)), key=encoded.__getitem__), dtype=np.int64)
        result: dict[str, NDArray[Any]] = {
            name: np.array(self._columns[name], dtype=dtype)[order] for name, dtype in COLUMNS.items()
        }
        counts = np.array(self._frame_counts, dtype=np.int64)
        result["frame_start"] = np.concatenate([[0], np.cumsum(counts[order])]).astype(np.int64)
        result["frame_offsets"] = _reordered(np.frombuffer(self._frame_offsets, dtype=np.uint32), counts, order)
        result |= pack_text("source", [encoded[index] for index in order])
        for column, (codes, values) in enumerate(zip(self._label_codes, self._label_values, strict=True)):
            names = sorted(values)
            # The extra entry at the end maps code -1 to -1.
            renumber = np.full(len(names) + 1, -1, dtype=np.int32)
            renumber[[values[name] for name in names]] = np.arange(len(names))
            result[f"label{column}"] = renumber[np.array(codes, dtype=np.int64)][order]
            result |= pack_text(f"label{column}_names", [name.encode("utf-8") for name in names])
        return result


def _reordered(values: NDArray[np.uint32], counts: NDArray[np.int64], order: NDArray[np.int64]) -> NDArray[np.uint32]:
    """Returns the values of all samples, of which sample i has counts[i] in a row, with the samples in `order`.

    Copies some samples at a time: an index for each value would take several times the memory of the values.
    """
    start = np.cumsum(counts) - counts
    result, filled = np.empty_like(values), 0
    for first in range(0, len(order), _COPIED):
        some = order[first : first + _COPIED]
        lengths = counts[some]
        within = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        result[filled : filled + len(within)] = values[np.repeat(start[some], lengths) + within]
        filled += len(within)
    return result
