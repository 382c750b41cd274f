"""The media files of a folder in an object store: listed there, and copied to this machine one at a time."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path, PurePosixPath

from common.stores import RemotePath, StoreError, StoreFileNotFound
from common.stores.backend import StoredFile
from common.stores.errors import StoreUnreachable
from pipeline.lists.names import MEDIA_SUFFIXES
from pipeline.media.rejection import RejectedSource
from pipeline.prepare.sources import Source, key_of

COPY = ".copy"
"""What the names of copies contain, by which those of killed workers are found."""


def list_sources(folder: RemotePath, *, exclude: RemotePath | None = None) -> tuple[list[Source], Counter[str]]:
    """Like `find_sources`, of a folder in an object store; samples get the same names as from a copy on a disk.

    Raises:
        StoreError: the folder cannot be listed.
    """
    found: list[tuple[bytes, Source]] = []
    others: Counter[str] = Counter()
    skip = f"{exclude}/".removeprefix(f"{folder}/") if exclude is not None else ""
    files = folder.files()
    folders = {str(parent) for file in files for parent in PurePosixPath(file.key).parents}
    for file in files:
        if (skip and file.key.startswith(skip)) or (not file.size and file.key.rstrip("/") in folders):
            continue  # some programs store an empty file in the place of a folder
        suffix = PurePosixPath(file.key).suffix.lower()
        if suffix not in MEDIA_SUFFIXES:
            others[suffix or "(no suffix)"] += 1
            continue
        raw = file.key.encode("utf-8")
        found.append((raw, _source(folder, file, raw)))
    found.sort(key=lambda item: item[0])
    return [source for _, source in found], others


def _source(folder: RemotePath, file: StoredFile, raw: bytes) -> Source:
    problem = None
    if {"", ".", ".."} & set(file.key.split("/")):
        problem = RejectedSource("cannot be read", "its name has a part that no file on a disk can have")
    return Source(
        name=file.key,
        key=key_of(raw),
        path=folder / file.key,
        size=-1 if problem else file.size,
        mtime_ns=-1 if problem else _version(file),
        problem=problem,
    )


def _version(file: StoredFile) -> int:
    """The time of modification; of a store without such times a number that changes with the content."""
    if file.modified_ns >= 0:
        return file.modified_ns
    return int(hashlib.sha256(file.etag.encode()).hexdigest()[:12], 16)


@contextmanager
def copied_here(source: Source, folder: Path) -> Iterator[Source]:
    """Yields `source` as a file of this machine, with the same size and time; a copy in `folder` is removed at the end.

    Raises:
        RejectedSource: it is not the version that was listed, or may not be read.
        StoreUnreachable: the store gives no answer; this concerns all files.
        OSError: the copy cannot be written.
    """
    if isinstance(source.path, Path):
        yield source
        return
    copy = copy_of(source, folder)
    try:
        try:
            now = source.path.stat()
            if (now.size, _version(now)) != (source.size, source.mtime_ns):
                raise RejectedSource("changed while being read", "run the same command again once it is complete")
            source.path.download(copy, size=now.size)
        except StoreUnreachable:
            raise
        except StoreFileNotFound:
            raise RejectedSource("missing", "it was removed while this command ran") from None
        except StoreError as error:
            raise RejectedSource("cannot be read", str(error)) from None
        os.utime(copy, ns=(source.mtime_ns, source.mtime_ns))
        yield replace(source, path=copy)
    finally:
        with suppress(OSError):
            copy.unlink(missing_ok=True)


def copy_of(source: Source, folder: Path) -> Path:
    """Where `copied_here` copies a file to; it keeps the suffix, by which FFmpeg recognises some formats."""
    return folder / f".{source.key}{COPY}{PurePosixPath(source.name).suffix}"


def remove_copies(folder: Path) -> None:
    """Removes the copies that killed workers have left."""
    for path in folder.glob(f".*{COPY}*"):
        path.unlink(missing_ok=True)


def content_sha256(path: Path | RemotePath) -> str:
    """SHA-256 of a file here or in an object store, as hexadecimal digits; raises OSError if it cannot be read."""
    if isinstance(path, Path):
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    digest, position, size = hashlib.sha256(), 0, path.stat().size
    while position < size:
        part = path.read_bytes(position, min(16 * 2**20, size - position))
        if not part:
            raise StoreError(f"{path} became shorter while it was read")
        digest.update(part)
        position += len(part)
    return digest.hexdigest()
