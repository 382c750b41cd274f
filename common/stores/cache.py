"""A folder with copies of files of object stores, shared by the processes of a machine, whose size is limited.

Note [Crashes and several processes]

A copy is made in a file NAME.part of its final length, locked by the process that writes it, and gets its name when it
is complete and its checksum is right. The kernel releases the locks of a process that ends, however it ends: a .part
file without a lock is a leftover, which the next process that needs room removes. Room is given and taken under one
lock of the folder, which no process holds while it waits for a store.

A process marks the copies that it will read by shared locks on bytes of one file, one byte per copy; nobody evicts a
marked copy. These locks, too, end with their process.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import shutil
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from common.files import file_name, file_sha256
from common.stores.errors import StoreError, StoreFileChanged, StoreFileDamaged
from common.stores.locks import allocate, is_abandoned, lock_byte
from common.stores.paths import RemotePath

PART = ".part"
"""Ending of the name of an unfinished copy."""
_CHUNK = 8 * 2**20
"""Bytes per request; several requests are in flight."""
_REQUESTS = 4
_SPARE_BYTES = 2**30
"""Bytes that the cache leaves free on its disk (a twentieth of the disk if that is less), for checkpoints and logs."""


class CacheError(OSError):
    """The folder of the cache cannot be used; the message says why."""


@dataclass(frozen=True)
class CachedFile:
    """A file in a store that may be copied.

    Attributes:
        path: where it is.
        size: its length in bytes.
        etag: which content it has; "" if the store tells none.
        sha256: SHA-256 of its content as hexadecimal digits; "" if it is not known.
    """

    path: RemotePath
    size: int
    etag: str
    sha256: str = ""

    @cached_property
    def digest(self) -> str:
        """Identifies place and content: a file that has changed is another one."""
        text = "\n".join((self.path.url, str(self.size), self.etag, self.sha256))
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


class FileCache:
    """Copies of files; all methods may be called by several threads.

    Args:
        folder: holds the copies and nothing else; it is made if needed. It must be on a disk of this machine.
        limit: largest total size of the copies, finished and unfinished, in bytes.

    Raises:
        CacheError: the folder cannot be made or written.
    """

    def __init__(self, folder: Path, *, limit: int) -> None:
        self.folder, self.limit = folder, limit
        self._marked: dict[str, int] = {}
        self._mutex = threading.Lock()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._lock_file = folder / ".lock"
            self._marks = os.open(folder / ".marks", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            os.close(os.open(self._lock_file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666))
        except OSError as error:
            raise CacheError(f"the cache folder {folder} cannot be used: {error.strerror}") from None

    def __del__(self) -> None:
        with suppress(AttributeError, OSError):
            os.close(self._marks)

    def path(self, file: CachedFile) -> Path:
        """Where the copy of a file is once it exists."""
        return self.folder / f"{file.digest}.{file_name(file.path.name)}"

    def holds(self, file: CachedFile) -> bool:
        """Whether there is a complete copy now."""
        return self.path(file).exists()

    def mark(self, files: Iterable[CachedFile]) -> None:
        """Keeps the copies of exactly these files from being evicted, by whomever; those that exist, and later ones."""
        wanted = {file.digest: file for file in files}
        with self._mutex:
            for digest in self._marked.keys() - wanted.keys():
                if lock_byte(self._marks, self._marked[digest], fcntl.F_UNLCK):
                    del self._marked[digest]
            for digest, file in wanted.items():
                # A copy that is being evicted cannot be marked; the next call tries again.
                if digest not in self._marked and lock_byte(self._marks, _place(digest), fcntl.F_RDLCK):
                    self._marked[digest] = _place(digest)
                    with suppress(OSError):
                        os.utime(self.path(file))  # the copy used longest ago is evicted first

    def fetch(self, file: CachedFile, *, stopping: Callable[[], bool] = lambda: False) -> bool:
        """Copies a file into the cache; evicts copies that nobody has marked where room is needed.

        Returns:
            Whether there is a copy now. False if there is no room, another process is copying the file at this moment,
            or `stopping` returned True.

        Raises:
            CacheError: the disk is full, or the folder cannot be written.
            StoreFileChanged, StoreFileDamaged: the store holds another content.
            StoreError: the file cannot be read.
        """
        path = self.path(file)
        if path.exists():
            return True
        try:
            descriptor = self._begin(path, file.size)
        except OSError as error:
            raise CacheError(f"the cache folder {self.folder} cannot be written: {error.strerror}") from None
        if descriptor is None:
            return path.exists()
        part, done = path.with_name(path.name + PART), False
        try:
            if not _copy(file, descriptor, stopping):
                return False
            if file.sha256 and file_sha256(part) != file.sha256:
                raise StoreFileDamaged(
                    f"{file.path} has the size that the manifest expects, but another SHA-256: upload it again"
                )
            os.fsync(descriptor)
            part.rename(path)
            done = True
            return True
        except StoreError:
            raise
        except OSError as error:
            raise CacheError(f"the cache folder {self.folder} cannot be written: {error.strerror}") from None
        finally:
            if not done:  # otherwise the name may be that of another process's copy by now
                with suppress(OSError):
                    part.unlink(missing_ok=True)
            os.close(descriptor)

    def discard(self, file: CachedFile) -> bool:
        """Removes the copy of a file, which turned out to be damaged; returns whether there was one."""
        try:
            self.path(file).unlink()
        except FileNotFoundError:
            return False
        return True

    def used(self) -> int:
        """Total size of the copies in bytes, including unfinished ones."""
        return sum(size for _, size, _ in self._entries())

    def _begin(self, path: Path, size: int) -> int | None:
        """Reserves room for a copy; returns the descriptor of its locked .part file, or None."""
        part = path.with_name(path.name + PART)
        with self._locked():
            if path.exists():
                return None
            if (part.exists() and not is_abandoned(part)) or not self._make_room(size):
                return None
            descriptor = os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                allocate(descriptor, size)
            except BaseException:
                part.unlink(missing_ok=True)
                os.close(descriptor)
                raise
            return descriptor

    def _make_room(self, size: int) -> bool:
        """Removes leftovers, and copies that nobody has marked, until `size` bytes more fit; False if they do not."""
        entries = []
        for path, length, used in self._entries():
            if path.suffix == PART and is_abandoned(path):
                path.unlink(missing_ok=True)
            else:
                entries.append((used, path, length))
        disk = shutil.disk_usage(self.folder)
        spare = disk.free - min(_SPARE_BYTES, disk.total // 20)
        free = min(self.limit - sum(length for _, _, length in entries), spare)
        # Others may have marked so much that nothing is gained: then nothing is removed.
        removable = []
        for _, path, length in sorted(entries):
            if free >= size:
                break
            if path.suffix != PART and self._is_unmarked(path):
                removable.append(path)
                free += length
        if free < size:
            if spare < size <= self.limit:
                raise OSError(errno.ENOSPC, f"its disk has only {disk.free:,} bytes left")
            return False
        for path in removable:
            with self._evicting(path) as may:
                if not may:
                    return False
                path.unlink(missing_ok=True)
        return True

    def _is_unmarked(self, path: Path) -> bool:
        with self._evicting(path) as may:
            return may

    @contextmanager
    def _evicting(self, path: Path) -> Iterator[bool]:
        """Yields whether no process has marked the copy, and keeps others from marking it meanwhile."""
        # Opened anew, because the locks of one opening do not exclude each other.
        marks = os.open(self.folder / ".marks", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            yield lock_byte(marks, _place(path.name.partition(".")[0]), fcntl.F_WRLCK)
        finally:
            os.close(marks)

    def _entries(self) -> list[tuple[Path, int, float]]:
        """Path, size in bytes and time of last use of each copy."""
        found = []
        with os.scandir(self.folder) as entries:
            for entry in entries:
                if not entry.name.startswith("."):
                    with suppress(FileNotFoundError):
                        status = entry.stat()
                        found.append((Path(entry.path), status.st_size, status.st_mtime))
        return found

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with self._mutex:
            descriptor = os.open(self._lock_file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
                yield
            finally:
                os.close(descriptor)


def _copy(file: CachedFile, descriptor: int, stopping: Callable[[], bool]) -> bool:
    """Writes the content of a file; returns False if `stopping` does before the end."""

    def copy(start: int) -> bool:
        if stopping():
            return False
        size = min(_CHUNK, file.size - start)
        data, etag = file.path.read(start, size)
        check_unchanged(file, len(data), size, etag)
        view = memoryview(data).cast("B")
        while len(view):
            written = os.pwrite(descriptor, view, start)
            view, start = view[written:], start + written
        return True

    starts = range(0, file.size, _CHUNK)
    if len(starts) < 2:
        return all(map(copy, starts))
    with ThreadPoolExecutor(min(_REQUESTS, len(starts))) as threads:
        return all(list(threads.map(copy, starts)))


def check_unchanged(file: CachedFile, got: int, wanted: int, etag: str) -> None:
    """Raises StoreFileChanged if an answer of `got` bytes with `etag` is not of the content that `file` describes."""
    if (etag and file.etag and etag != file.etag) or got != wanted:
        found = f"etag {etag} instead of {file.etag}" if got == wanted else f"{got:,} bytes instead of {wanted:,}"
        raise StoreFileChanged(
            f"{file.path} has changed since this command began ({found}): nothing of the new content was used; prepare "
            "into a new folder while runs read the old one, then start the command again"
        )


def _place(digest: str) -> int:
    """The byte of the file .marks that stands for a copy."""
    try:
        return int(digest[:15], 16)
    except ValueError:  # a file that the cache did not write
        return 0
