"""The array-backed index of a prepared data set: where each sample's bytes lie, and its labels."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.phases import begin
from common.stores import Location, RemotePath, StoreError, location
from pipeline.plan.selection import parts
from pipeline.shards.content import LaterCheck, Reopened, check_content, is_first_on_machine
from pipeline.shards.meta import REBUILD, check_shards, damaged, meta_file, read_meta
from pipeline.shards.meta import ManifestError as ManifestError
from pipeline.shards.remote_manifest import cache_folder, copy_manifest
from settings import StorageConfig
from settings.load import format_names, from_dict

COLUMNS = {
    "shard": np.int32,
    "video_offset": np.int64,
    "frames": np.int32,
    "width": np.int32,
    "height": np.int32,
    "audio_offset": np.int64,
    "audio_samples": np.int64,
    "checksum_offset": np.int64,
}
"""Maps each array with one value per sample to its type; class Manifest explains them."""


_HASHED_BYTES = 2**28
"""Largest size in bytes of frame_offsets that is compared with its checksum. If it is larger, the checksums in the
shards detect a wrong offset when it is used."""
_CHECKED_BYTES = 2**25
"""Largest size in bytes of all checked arrays for which opening waits: about a hundred thousand samples. Larger ones
are checked while the data set is in use already, once per machine."""


class Manifest:
    """n samples sorted by source path.

    Every array is memory-mapped: the processes of a machine share what they read of it, and opening a large one reads
    next to nothing. A large manifest is compared with its checksums afterwards; see `finish_check`.

    Each sample has a single clock: frame i is shown at i / storage.fps seconds, PCM sample j at j / sample_rate.

    Attributes:
        root: the folder that holds the shards, here or in an object store.
        shards: file names of the shards, relative to `root`.
        shard_bytes: int64 [number of shards], file sizes of the shards.
        shard_sha256: SHA-256 of each shard; empty for a shard that was written in format 1.
        shard_etag: etag of each shard in an object store when the manifest was opened; empty if there is none.
        shard: int32 [n], index into `shards`.
        video_offset: int64 [n], byte offset in the shard at which the video blob begins; -1 without video.
        frame_start: int64 [n + 1]; frame_offsets[frame_start[i]:frame_start[i + 1]] belong to sample i.
        frame_offsets: uint32, ragged; frames + 1 byte offsets per sample, relative to video_offset: where each frame
            begins, and where the last one ends. Samples without video have none.
        frames, width, height: int32 [n]; 0 without video.
        audio_offset: int64 [n], byte offset in the shard of the first PCM sample; -1 without audio.
        audio_samples: int64 [n], PCM samples; equals round(frames / fps * sample_rate) where both tracks exist.
        checksum_offset: int64 [n], byte offset in the shard of the sample's checksums (see pipeline.shards.checksums);
            -1 if it was written in format 1.
        storage: how the video is encoded.
        sample_rate: sampling rate of the PCM, in Hz.
        streams: which tracks every sample has: both, video or audio.
        fingerprint: identifies the content (sources, labels, lengths), regardless of how it is split into shards.
        label_columns: names of the label columns.
        arrays: all arrays by their names in docs/format.md.
    """

    def __init__(
        self,
        *,
        root: Location,
        folder: Path,
        meta: Mapping[str, Any],
        storage: StorageConfig,
        arrays: Mapping[str, NDArray[Any]],
        check: LaterCheck | None = None,
        etags: Sequence[str] = (),
    ) -> None:
        self.root = root
        self._folder = folder
        self.shards: list[str] = list(meta["shards"])
        self.shard_bytes: NDArray[np.int64] = np.array(meta["shard_bytes"], dtype=np.int64)
        self.shard_sha256: list[str] = list(meta["shard_sha256"])
        self.shard_etag: list[str] = list(etags) or [""] * len(self.shards)
        self.shard: NDArray[np.int32] = arrays["shard"]
        self.video_offset: NDArray[np.int64] = arrays["video_offset"]
        self.frame_start: NDArray[np.int64] = arrays["frame_start"]
        self.frame_offsets: NDArray[np.uint32] = arrays["frame_offsets"]
        self.frames: NDArray[np.int32] = arrays["frames"]
        self.width: NDArray[np.int32] = arrays["width"]
        self.height: NDArray[np.int32] = arrays["height"]
        self.audio_offset: NDArray[np.int64] = arrays["audio_offset"]
        self.audio_samples: NDArray[np.int64] = arrays["audio_samples"]
        self.checksum_offset: NDArray[np.int64] = arrays["checksum_offset"]
        self.storage: StorageConfig = storage
        self.sample_rate: int = meta["sample_rate"]
        self.streams: str = meta["streams"]
        self.fingerprint: str = meta["fingerprint"]
        self.label_columns: list[str] = list(meta["label_columns"])
        self.arrays = arrays
        self._check = check

    @classmethod
    def open(cls, path: str | Location, *, verify: bool = False, cache_dir: str = "") -> Manifest:
        """Opens the manifest of the prepared folder `path`, checks it, and that its shards exist with the right size.

        Of the processes of a machine only the first looks for the shards, unless they are in an object store.

        Args:
            path: a folder, or the URL of one in an object store.
            verify: check all arrays now, whatever their size, but leave the shards to the caller.
            cache_dir: data.cache_dir, for a copy of the arrays of a data set in an object store.

        Raises:
            ManifestError: there is no manifest, it is damaged, or a shard is missing or has another size.
        """
        root = location(path)
        meta, meta_path = read_meta(root), meta_file(root)
        begin(f"opening {meta['samples']:,} samples of {root}")
        try:
            storage = from_dict(StorageConfig, meta["storage"], source=str(meta_path))
            if isinstance(root, RemotePath):
                folder, arrays, check = _open_copy(root, meta, cache_folder(cache_dir), fps=storage.fps, now=verify)
            else:
                folder = meta_file(root).parent / meta["version"]
                arrays, check = _open_arrays(folder, meta, fps=storage.fps, now=verify)
            # The etags of a store are needed by every process.
            looks = isinstance(root, RemotePath) or is_first_on_machine()
            etags = check_shards(root, meta) if looks and not verify else []
            return cls(root=root, folder=folder, meta=meta, storage=storage, arrays=arrays, check=check, etags=etags)
        except ManifestError:
            raise
        except StoreError as error:
            raise ManifestError(str(error)) from None
        except (KeyError, TypeError, ValueError, OverflowError, OSError) as error:
            raise damaged(meta_path, error) from None

    def __len__(self) -> int:
        return len(self.frames)

    def raise_if_damaged(self) -> None:
        """Raises the ManifestError that the check of a large manifest has ended with meanwhile, if it has."""
        if self._check is not None:
            self._check.raise_if_damaged()

    def finish_check(self) -> None:
        """Waits until a large manifest has been checked completely.

        Raises:
            ManifestError: it is damaged.
        """
        if self._check is not None:
            self._check.finish()

    @property
    def seconds(self) -> NDArray[np.float64]:
        """float64 [n], length of each sample in seconds."""
        return np.where(self.frames > 0, self.frames / self.storage.fps, self.audio_samples / self.sample_rate)

    @property
    def shortest_side(self) -> int:
        """Shortest side of all frames, in pixels; the largest int32 if there is no video."""
        shortest = np.iinfo(np.int32).max
        for part in parts(len(self)):
            sides = np.minimum(self.width[part], self.height[part])
            shortest = sides[sides > 0].min(initial=shortest)
        return int(shortest)

    def source(self, index: int) -> str:
        """Path of the sample's source, relative to the source folder; bytes that are not UTF-8 appear as \\xNN."""
        return self._text("source", index)

    def rows(self, sources: Sequence[str]) -> NDArray[np.int64]:
        """Returns the id of the sample with each of the sources, int64 [sources]; -1 if there is none.

        The rows are sorted, so that each source is found by halving.

        Raises:
            ManifestError: the manifest has been replaced since it was opened.
        """
        names = ("source_start", "source_bytes")
        # Mapped anew: halving reads pages all over the files, which would stay part of this process's memory.
        try:
            arrays = {name: _load_array(self._folder / f"{name}.npy", self.arrays[name].dtype.type) for name in names}
        except OSError as error:
            raise damaged(meta_file(self.root), error) from None
        text, found = partial(_bytes, arrays, "source"), []
        for source in sources:
            wanted = source.encode("utf-8", "surrogateescape")
            place = bisect_left(range(len(self)), wanted, key=text)
            found.append(place if place < len(self) and text(place) == wanted else -1)
        return np.array(found, dtype=np.int64)

    def labels(self, column: str) -> NDArray[np.int32]:
        """int32 [n], indices into `label_names(column)`; -1 if unknown.

        Raises:
            ManifestError: there is no such column.
        """
        return self.arrays[f"label{self._column(column)}"]

    def label_names(self, column: str) -> list[str]:
        """Sorted distinct values of the label column."""
        name = f"label{self._column(column)}_names"
        return [self._text(name, code) for code in range(len(self.arrays[f"{name}_start"]) - 1)]

    def _column(self, column: str) -> int:
        if column not in self.label_columns:
            columns = format_names(self.label_columns)
            raise ManifestError(f"{self.root} has no label column {column!r}; it has: {columns}")
        return self.label_columns.index(column)

    def _text(self, name: str, index: int) -> str:
        return _bytes(self.arrays, name, index).decode("utf-8", "replace")


def _bytes(arrays: Mapping[str, NDArray[Any]], name: str, index: int) -> bytes:
    start = arrays[f"{name}_start"]
    return bytes(arrays[f"{name}_bytes"][start[index] : start[index + 1]])


def _open_copy(
    root: RemotePath, meta: Mapping[str, Any], cache: Path, *, fps: float, now: bool
) -> tuple[Path, Mapping[str, NDArray[Any]], LaterCheck | None]:
    """Like `_open_arrays`, from copies in a folder in `cache`, which are made again if they are damaged."""
    names = _array_types(meta)
    try:
        try:
            folder = copy_manifest(root, meta, names, cache)
            return folder, *_open_arrays(folder, meta, fps=fps, now=now)
        except ManifestError:
            folder = copy_manifest(root, meta, names, cache, again=True)
            return folder, *_open_arrays(folder, meta, fps=fps, now=now)
    except StoreError:
        raise
    except OSError as error:
        raise ManifestError(
            f"the manifest of {root} cannot be copied to {cache} ({error.strerror}): set data.cache_dir to a folder "
            "of this machine with room"
        ) from None


def _open_arrays(
    folder: Path, meta: Mapping[str, Any], *, fps: float, now: bool
) -> tuple[Mapping[str, NDArray[Any]], LaterCheck | None]:
    arrays = _load_arrays(folder, meta)
    return arrays, _check_arrays(folder, meta, arrays, fps=fps, now=now)


def _array_types(meta: Mapping[str, Any]) -> dict[str, type]:
    """Names and types of the arrays that a manifest has."""
    columns = range(len(meta["label_columns"]))
    texts = ["source", *(f"label{column}_names" for column in columns)]
    types: dict[str, type] = {**COLUMNS, "frame_start": np.int64, "frame_offsets": np.uint32}
    types |= dict.fromkeys((f"{name}_start" for name in texts), np.int64)
    types |= dict.fromkeys((f"{name}_bytes" for name in texts), np.uint8)
    types |= dict.fromkeys((f"label{column}" for column in columns), np.int32)
    if meta["format"] == 1:
        del types["checksum_offset"]
    return types


def _load_arrays(folder: Path, meta: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
    """Maps the arrays into memory and checks their types and lengths, which reads a page of each."""
    count, columns, types = meta["samples"], range(len(meta["label_columns"])), _array_types(meta)
    arrays = {name: _load_array(folder / f"{name}.npy", dtype) for name, dtype in types.items()}
    lengths = {name: count for name in COLUMNS if name in types} | {"frame_start": count + 1, "source_start": count + 1}
    lengths |= {f"label{column}": count for column in columns}
    for name, length in lengths.items():
        _check_length(folder, arrays, name, length)
    _check_length(folder, arrays, "frame_offsets", int(arrays["frame_start"][-1]))
    return {"checksum_offset": np.broadcast_to(np.int64(-1), count), **arrays}


def _check_arrays(
    folder: Path, meta: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]], *, fps: float, now: bool
) -> LaterCheck | None:
    """Checks the content of the arrays now, or begins to if they are large and not `now`."""
    offsets = now or arrays["frame_offsets"].nbytes <= _HASHED_BYTES
    stored = {name: array for name, array in arrays.items() if name != "checksum_offset" or meta["format"] != 1}
    if (
        now
        or sum(array.nbytes for name, array in stored.items() if offsets or name != "frame_offsets") <= _CHECKED_BYTES
    ):
        check_content(folder, meta, stored, fps=fps, offsets=offsets)
        return None
    again = Reopened(folder, list(stored))
    return LaterCheck(partial(check_content, folder, meta, again, fps=fps, offsets=offsets))


def _load_array(path: Path, dtype: type) -> NDArray[Any]:
    # NumPy cannot memory-map an array without elements, whose file is only a header of 128 bytes.
    empty = path.stat().st_size <= 128
    try:
        array = np.load(path, mmap_mode=None if empty else "r", allow_pickle=False)
    except Exception as error:  # NumPy raises various types, depending on the damage
        raise ManifestError(f"{path} is damaged ({' '.join(str(error).split())}); {REBUILD}") from None
    if not isinstance(array, np.ndarray) or array.dtype != dtype or array.ndim != 1:
        found = f"{array.dtype} {list(array.shape)}" if isinstance(array, np.ndarray) else type(array).__name__
        raise ManifestError(f"{path} is damaged (it is {found}, not a list of {dtype.__name__}); {REBUILD}")
    return np.asarray(array)  # an index into a memmap takes several times as long


def _check_length(folder: Path, arrays: Mapping[str, NDArray[Any]], name: str, length: int) -> None:
    if arrays[name].shape != (length,):
        raise ManifestError(f"{folder}/{name}.npy has shape {arrays[name].shape}, not ({length},); {REBUILD}")
