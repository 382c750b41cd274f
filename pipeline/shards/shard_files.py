"""Where the bytes of shards come from: files of this machine, or an object store and the copies made from it."""

from __future__ import annotations

import errno
import logging
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Iterable
from typing import Protocol

import numpy as np

from common.stores import RemotePath, StoreError
from common.stores.cache import CachedFile, CacheError, FileCache, check_unchanged
from pipeline.plan.bad_samples import SampleError
from pipeline.shards.manifest import Manifest
from pipeline.shards.remote_manifest import cache_folder
from settings import DataConfig

_log = logging.getLogger(__name__)

OPEN_SHARDS = 256
"""Largest number of shards that a reader keeps open; the usual limit of a process is 1,024 files."""
_SLOW_SECONDS = 0.002
"""If a read takes longer than this on average, in seconds, several threads read."""


class Unreadable(Exception):
    """A range of a shard cannot be read; the message says why, as a clause for a longer message."""


class ShardFiles(Protocol):
    """Access to the shards of a data set; all methods may be called by several threads."""

    removed: int
    """How often `distrust` has removed a copy."""

    def path(self, shard: int) -> str:
        """Where the shard is, for messages."""

    def announce(self, shards: list[int], offsets: list[int], sizes: list[int]) -> None:
        """Says which byte ranges will be read next.

        Raises:
            Unreadable: a shard cannot be opened; its `args[1]` is the index of the range.
        """

    def fill_at_once(self, shard: int, target: np.ndarray, offset: int) -> bool:
        """Like `fill`, if that need not wait for a disk or a server: returns True if so, and otherwise False."""

    def fill(self, shard: int, target: np.ndarray, offset: int) -> None:
        """Fills `target`, uint8, with the bytes at `offset`.

        Raises:
            Unreadable: the shard lacks these bytes, or they cannot be read.
            SampleError: an object store does not answer, or holds another shard by now.
        """

    def distrust(self, shard: int) -> None:
        """Removes this machine's copy of the shard, if there is one: it seems to be damaged."""


class LocalShards:
    """Implements `ShardFiles` for the file system."""

    removed = 0

    def __init__(self, manifest: Manifest) -> None:
        self._manifest = manifest
        self._open = OpenFiles()
        self._has_nowait = True  # whether the file system supports reads that only use the page cache
        self._mean_seconds = 0.0  # running mean of the time of a read, for file systems that do not

    def path(self, shard: int) -> str:
        return f"{self._manifest.root}/{self._manifest.shards[shard]}"

    def announce(self, shards: list[int], offsets: list[int], sizes: list[int]) -> None:
        """Tells the kernel, so that slow disks serve the ranges in parallel."""
        for number, (shard, offset, size) in enumerate(zip(shards, offsets, sizes, strict=True)):
            try:
                file = self._open.get(shard, self.path(shard))
            except OSError as error:
                raise Unreadable(f"it cannot be opened ({error.strerror})", number) from None
            if size:  # 0 would mean: to the end of the file
                os.posix_fadvise(file.descriptor, offset, size, os.POSIX_FADV_WILLNEED)

    def fill_at_once(self, shard: int, target: np.ndarray, offset: int) -> bool:
        if self._has_nowait:
            try:
                file = self._open.get(shard, self.path(shard))
                return os.preadv(file.descriptor, [target.data], offset, os.RWF_NOWAIT) == target.nbytes
            except OSError as error:  # mostly EAGAIN: not in the page cache; `fill` reports errors that last
                self._has_nowait = error.errno != errno.EOPNOTSUPP
                return False
        if self._mean_seconds > _SLOW_SECONDS:
            return False
        self.fill(shard, target, offset)
        return True

    def fill(self, shard: int, target: np.ndarray, offset: int) -> None:
        began = time.perf_counter()
        try:
            got = os.preadv(self._open.get(shard, self.path(shard)).descriptor, [target.data], offset)
        except OSError as error:
            raise Unreadable(f"it cannot be read ({error.strerror})") from None
        if got != target.nbytes:
            raise Unreadable(f"it has only {got} of the {target.nbytes} bytes at byte {offset}")
        self._mean_seconds += 0.05 * (time.perf_counter() - began - self._mean_seconds)

    def distrust(self, shard: int) -> None:
        """Does nothing: the shard itself is not a copy, and stays."""


class RemoteShards:
    """Implements `ShardFiles` for an object store: reads copies where there are any, and otherwise ranges.

    Args:
        root: the folder of the shards.
        cache: the copies; None reads all from the store.
    """

    def __init__(self, manifest: Manifest, root: RemotePath, cache: FileCache | None = None) -> None:
        sizes = manifest.shard_bytes.tolist()
        described = zip(manifest.shards, sizes, manifest.shard_etag, manifest.shard_sha256, strict=True)
        self.files = [CachedFile(root / name, size, etag, sha256) for name, size, etag, sha256 in described]
        self.cache = cache
        self.removed = 0
        self._distrusting = threading.Lock()
        self._copies = [str(cache.path(file)) for file in self.files] if cache is not None else []
        self._open = OpenFiles()

    def path(self, shard: int) -> str:
        return str(self.files[shard].path)

    def announce(self, shards: list[int], offsets: list[int], sizes: list[int]) -> None:
        """Does nothing: several threads call `fill`, so the store serves ranges in parallel anyway."""

    def fill_at_once(self, shard: int, target: np.ndarray, offset: int) -> bool:
        """Reads the copy, if there is one; removes it if that fails."""
        if not target.nbytes:
            return True
        if self.cache is None:
            return False
        try:
            file = self._open.get(shard, self._copies[shard])
            if os.preadv(file.descriptor, [target.data], offset) == target.nbytes:
                return True
        except FileNotFoundError:
            return False
        except OSError:  # treated like a copy that is too short
            pass
        self.distrust(shard)
        return False

    def fill(self, shard: int, target: np.ndarray, offset: int) -> None:
        file = self.files[shard]
        try:
            data, etag = file.path.read(offset, target.nbytes)
            check_unchanged(file, len(data), target.nbytes, etag)
        except StoreError as error:
            raise SampleError(str(error)) from None
        target[:] = np.frombuffer(data, dtype=np.uint8)

    def distrust(self, shard: int) -> None:
        # With a lock, so that another thread which has read the same copy finds it counted once it is gone.
        with self._distrusting:
            was_open = self._open.drop(shard)
            # Another process may have removed the copy that this one still had open.
            if (self.cache is not None and self.cache.discard(self.files[shard])) or was_open:
                self.removed += 1

    def close(self, shards: Iterable[int]) -> None:
        """Closes copies that may be evicted: an evicted copy takes up disk space until no process has it open."""
        for shard in shards:
            self._open.drop(shard)


def shard_files(manifest: Manifest, cache: FileCache | None = None) -> LocalShards | RemoteShards:
    """Returns the access to the shards of a data set, wherever they are.

    Args:
        cache: the copies of shards, if these are in an object store.
    """
    if isinstance(manifest.root, RemotePath):
        return RemoteShards(manifest, manifest.root, cache)
    return LocalShards(manifest)


def open_cache(data: DataConfig) -> FileCache | None:
    """Opens the folder for copies of shards; None if data.cache_gb is 0, or the folder cannot be used."""
    limit = int(data.cache_gb * 1e9)
    if not limit:
        return None
    try:
        return FileCache(cache_folder(data.cache_dir) / "shards", limit=limit)
    except CacheError as error:
        _log.warning(
            "%s; shards are read from the store in ranges: set another data.cache_dir, or data.cache_gb=0", error
        )
        return None


class _OpenFile:
    """An open file, which is closed when the last reference to it is gone."""

    def __init__(self, path: str) -> None:
        self.descriptor = -1  # for `__del__`, if the file cannot be opened
        self.descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def __del__(self) -> None:
        if self.descriptor >= 0:
            os.close(self.descriptor)


class OpenFiles:
    """Keeps the shards open that were read last. One that is dropped stays open for the threads that still read it."""

    def __init__(self) -> None:
        self._files: OrderedDict[int, _OpenFile] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, shard: int, path: str) -> _OpenFile:
        """Returns the open shard; opens it if needed, and drops the least recently used one if there are too many.

        Raises:
            OSError: it cannot be opened.
        """
        with self._lock:
            if shard in self._files:
                self._files.move_to_end(shard)
                return self._files[shard]
        file = _OpenFile(path)
        with self._lock:
            self._files[shard] = file
            if len(self._files) > OPEN_SHARDS:
                self._files.popitem(last=False)
        return file

    def drop(self, shard: int) -> bool:
        """Drops a shard; returns whether it was open."""
        with self._lock:
            return self._files.pop(shard, None) is not None
