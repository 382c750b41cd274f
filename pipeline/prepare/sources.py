"""Finds the media files of a folder tree, in the same order on every machine."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pipeline.prepare.rejection import RejectedSource, file_problem

_VIDEO = """
    3g2 3gp asf avi divx dv f4v flv m2t m2ts m2v m4v mjpeg mjpg mkv mov mp4 mpe mpeg mpg mts mxf ogm ogv qt rm rmvb
    ts vob webm wmv xvid
"""
_AUDIO = "aac ac3 aif aiff amr au caf flac m4a mka mp2 mp3 oga ogg opus wav wma wv"
MEDIA_SUFFIXES = frozenset(f".{name}" for name in (_VIDEO + _AUDIO).split())


@dataclass(frozen=True, kw_only=True)
class Source:
    """A file from which a sample may be prepared.

    Attributes:
        name: path relative to the source folder, separated by /; bytes that are not UTF-8 are written as \\xNN.
        key: 20 hexadecimal digits of a hash of the name; it names the sample's members in a shard.
        path: path of the file.
        size, mtime_ns: size in bytes and modification time in nanoseconds, which identify a version of the file; -1 if
            it cannot be read.
        problem: why it cannot be read; None for a readable file.
    """

    name: str
    key: str
    path: Path
    size: int
    mtime_ns: int
    problem: RejectedSource | None = None


def find_sources(folder: Path, *, exclude: Path | None = None) -> tuple[list[Source], Counter[str]]:
    """Finds all files of `folder` with a media suffix (upper or lower case).

    Symbolic links are followed. Each folder is visited once, and `exclude` is skipped.

    Returns:
        The sources, sorted by the bytes of their relative path, and the number of skipped files per other suffix.
    """
    skip = exclude.resolve() if exclude is not None else None
    found: list[tuple[bytes, Source]] = []
    others: Counter[str] = Counter()
    for path in _walk(folder, skip):
        suffix = path.suffix.lower()
        if suffix not in MEDIA_SUFFIXES:
            if not path.is_dir():
                others[suffix or "(no suffix)"] += 1
            continue
        raw = os.fsencode(path.relative_to(folder).as_posix())
        found.append((raw, _source(path, raw)))
    found.sort(key=lambda item: item[0])
    return [source for _, source in found], others


def _walk(folder: Path, skip: Path | None) -> Iterator[Path]:
    entered: set[tuple[int, int]] = set()
    for parent, folders, files in os.walk(folder, followlinks=True):
        here = Path(parent)
        entered.add(_identity(here))
        yield from (here / name for name in files)
        yield from (here / name for name in folders)
        folders[:] = sorted(
            name for name in folders if _identity(here / name) not in entered and (here / name).resolve() != skip
        )


def _identity(path: Path) -> tuple[int, int]:
    try:
        status = path.stat()
    except OSError:
        return (-1, -1)
    return (status.st_dev, status.st_ino)


def _source(path: Path, raw: bytes) -> Source:
    problem = file_problem(path)
    status = None if problem else path.stat()
    return Source(
        name=raw.decode("utf-8", "backslashreplace"),
        key=hashlib.sha256(raw).hexdigest()[:20],
        path=path,
        size=status.st_size if status else -1,
        mtime_ns=status.st_mtime_ns if status else -1,
        problem=problem,
    )
