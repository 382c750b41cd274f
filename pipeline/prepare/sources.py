"""Finds the media files of a folder tree, in the same order on every machine."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from common.files import file_sha256
from common.stores import Location
from pipeline.lists.names import MEDIA_SUFFIXES
from pipeline.lists.spans import Span, fragment_of
from pipeline.media.rejection import RejectedSource, file_problem


class PrepareError(Exception):
    """A run that cannot start or continue; the message is meant for the user."""


class Item(NamedTuple):
    """What is to be prepared from a file: all of it (span None) or a segment. With windows it gives several samples.

    Attributes:
        name: name of its sample: that of the file, followed by #t=START,END for a segment.
        key: names the sample's members in a shard.
    """

    span: Span | None
    name: str
    key: str


@dataclass(frozen=True, kw_only=True)
class Source:
    """A file from which samples may be prepared, or a folder that cannot be listed.

    Attributes:
        name: path relative to the source folder, separated by /; bytes that are not UTF-8 are written as \\xNN. In a
            source that was added under a name, that name and / come first.
        key: 20 hexadecimal digits of a hash of the name; it names the sample's members in a shard.
        path: path of the file, here or in an object store.
        size, mtime_ns: size in bytes and modification time in nanoseconds, which identify a version of the file; -1 if
            it cannot be read.
        problem: why it cannot be read; None for a readable file.
        spans: what to prepare from it; None stands for the whole file.
    """

    name: str
    key: str
    path: Location
    size: int
    mtime_ns: int
    problem: RejectedSource | None = None
    spans: tuple[Span | None, ...] = (None,)

    @property
    def items(self) -> list[Item]:
        """What is to be prepared from it."""
        fragments = [(span, fragment_of(span)) for span in self.spans]
        return [Item(span, self.name + text, part_key(self.key, text)) for span, text in fragments]


class PackedSample(NamedTuple):
    """A sample in a shard: where it is, and from which version of which file it was made.

    Attributes:
        shard: name of the shard without its suffix.
        source: name of the sample.
        sha256: hash of the source file; None in rows that an older version wrote without it.
        file, file_key: name and key of the file; for a sample that is a whole file they are those of the sample.
        item, item_key: name and key of the item; they differ from those of the sample if it is one of several windows.
        windows: number of windows of the item.
    """

    shard: str
    key: str
    source: str
    size: int
    mtime_ns: int
    sha256: str | None
    file: str
    file_key: str
    item: str
    item_key: str
    windows: int = 1

    @classmethod
    def of(cls, shard: str, row: Mapping[str, Any]) -> PackedSample:
        sha256 = row.get("sha256")
        digest = sha256 if isinstance(sha256, str) else None
        file, file_key = row.get("file", row["source"]), row.get("file_key", row["key"])
        fragment = row.get("item", row["source"].removeprefix(file))
        return cls(
            *(Path(shard).stem, row["key"], row["source"], row["size"], row["mtime_ns"], digest, file, file_key),
            item=file + fragment,
            item_key=part_key(file_key, fragment),
            windows=row.get("windows", 1),
        )

    def moved_to(self, source: Source) -> PackedSample:
        """The sample after its file was moved, or got another size or time, as `source` says."""
        part, item = (name.removeprefix(self.file) for name in (self.source, self.item))
        return self._replace(
            key=part_key(source.key, part),
            source=source.name + part,
            size=source.size,
            mtime_ns=source.mtime_ns,
            file=source.name,
            file_key=source.key,
            item=source.name + item,
            item_key=part_key(source.key, item),
        )


def packed_keys(samples: Iterable[PackedSample]) -> set[str]:
    """The keys of samples, and of the items of which all windows are among them."""
    keys, windows = set(), Counter[tuple[str, int]]()
    for sample in samples:
        if sample.key not in keys:
            keys.add(sample.key)
            windows[sample.item_key, sample.windows] += 1
    return keys.union(item for (item, wanted), found in windows.items() if found >= wanted > 1)


def find_sources(folder: Path, *, exclude: Path | None = None) -> tuple[list[Source], Counter[str]]:
    """Finds all files of `folder` with a media suffix (upper or lower case).

    Symbolic links are followed. Each folder is visited once, and `exclude` is skipped.

    Returns:
        The sources, sorted by the bytes of their relative path, and the number of skipped files per other suffix. A
        sub-folder that cannot be listed is a source with a problem: its files are neither found nor known to be gone.
    """
    skip = exclude.resolve() if exclude is not None else None
    found: list[tuple[bytes, Source]] = []
    others: Counter[str] = Counter()
    failed: list[OSError] = []
    for path in _walk(folder, skip, failed):
        suffix = path.suffix.lower()
        if suffix not in MEDIA_SUFFIXES:
            if not path.is_dir():
                others[suffix or "(no suffix)"] += 1
            continue
        raw = os.fsencode(path.relative_to(folder).as_posix())
        found.append((raw, _source(path, raw, file_problem(path))))
    for error in failed:
        path = Path(error.filename)
        raw = os.fsencode(path.relative_to(folder).as_posix())
        if path != folder:
            reason = f"the folder cannot be listed: {error.strerror}"
            found.append((raw, _source(path, raw, RejectedSource("cannot be read", reason))))
    found.sort(key=lambda item: item[0])
    return [source for _, source in found], others


def add_prefix(sources: Sequence[Source], folder: Location, prefix: str) -> list[Source]:
    """Returns the sources of `folder` with `prefix` before their names, and with the keys of these names."""
    if not prefix:
        return list(sources)
    return [
        replace(
            source,
            name=prefix + source.name,
            key=key_of(prefix.encode("utf-8") + _relative(source.path, folder)),
        )
        for source in sources
    ]


def _relative(path: Location, folder: Location) -> bytes:
    if isinstance(path, Path) and isinstance(folder, Path):
        return os.fsencode(path.relative_to(folder).as_posix())
    return str(path).removeprefix(f"{folder}/").encode("utf-8")


@contextmanager
def unchanged(source: Source) -> Iterator[str]:
    """Yields the SHA-256 of the file of `source`, which must stay the listed version until the block ends.

    The file must be one of this machine (`copied_here`).

    Raises:
        RejectedSource: the file was modified, replaced or removed after it was listed, or cannot be read.
    """
    path = Path(source.path)
    before = _version(path)
    if before[:2] != (source.size, source.mtime_ns):
        raise _changed()
    try:
        digest = file_sha256(path)
    except OSError as error:
        raise RejectedSource("cannot be read", error.strerror or str(error)) from None
    try:
        yield digest
    finally:
        # Even an error of the block is void then: it may have read a mixture of two versions of the file.
        if _version(path) != before:
            raise _changed() from None


def _version(path: Path) -> tuple[int, int, int, int]:
    """Returns size, modification time, inode and status-change time (ctime), which no program can set."""
    try:
        status = path.stat()
    except OSError:
        raise _changed() from None
    return status.st_size, status.st_mtime_ns, status.st_ino, status.st_ctime_ns


def _changed() -> RejectedSource:
    return RejectedSource("changed while being read", "run the same command again once it is complete")


def _walk(folder: Path, skip: Path | None, failed: list[OSError]) -> Iterator[Path]:
    entered: set[tuple[int, int]] = set()
    for parent, folders, files in os.walk(folder, followlinks=True, onerror=failed.append):
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


def _source(path: Path, raw: bytes, problem: RejectedSource | None) -> Source:
    size = mtime_ns = -1
    if problem is None:
        try:
            status = path.stat()
            size, mtime_ns = status.st_size, status.st_mtime_ns
        except OSError as error:  # it was removed a moment ago
            problem = RejectedSource("missing", error.strerror or str(error))
    name = raw.decode("utf-8", "backslashreplace")
    return Source(name=name, key=key_of(raw), path=path, size=size, mtime_ns=mtime_ns, problem=problem)


def key_of(raw: bytes) -> str:
    """The key of the source whose name is `raw`, as the file system or the store gives it."""
    return hashlib.sha256(raw).hexdigest()[:20]


def part_key(file_key: str, fragment: str) -> str:
    """The key of the part of a file that a fragment names; that of the file if the fragment is empty."""
    return key_of((file_key + fragment).encode("utf-8")) if fragment else file_key


def check_folders(src: Location, out: Location) -> None:
    """Raises PrepareError unless the files of `src` can be prepared into `out`."""
    if not src.is_dir():
        what = "is a file" if src.exists() else "does not exist"
        raise PrepareError(f"SRC must be a folder of videos, but {src} {what}")
    if out == src or out in src.parents:
        raise PrepareError(f"OUT ({out}) must not be SRC ({src}), and must not contain it")
    if isinstance(out, Path) and out.exists() and not out.is_dir():
        raise PrepareError(f"OUT must be a folder, but {out} is a file")
