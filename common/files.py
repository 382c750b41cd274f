"""Files that are written whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path, *, durable: bool = False) -> Iterator[Path]:
    """A temporary path beside `path` that takes its place when the block ends without an error.

    A reader sees the old content or the new one, never a part. After an error the old content stays and the temporary
    file is removed.

    Args:
        durable: also survive a power cut: the content is on disk before it takes its place, and the folder after that.
    """
    # The process's number: several processes may write the same file at a time. The dot: it is no file of a data set.
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield unfinished
        if durable:
            _sync(unfinished)
        unfinished.replace(path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise
    if durable:
        _sync(path.parent)


def write_atomically(path: Path, data: str | bytes, *, durable: bool = False) -> None:
    """Writes text (as UTF-8) or bytes to `path`, as `replacing` does.

    Raises:
        OSError: the disk is full or not writable; the old content is still there.
    """
    with replacing(path, durable=durable) as unfinished:
        unfinished.write_bytes(data.encode("utf-8") if isinstance(data, str) else data)


def _sync(path: Path) -> None:
    """Has the system put a file's content, or a folder's list of files, on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
