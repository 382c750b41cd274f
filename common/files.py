"""Atomic file writes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path, *, durable: bool = False) -> Iterator[Path]:
    """Yields a temporary path beside `path`, which replaces `path` when the block ends without an error.

    A reader sees the old content or the new content, never a part. After an error the old content stays and the
    temporary file is removed.

    Args:
        durable: whether the new content must survive a power cut: the file is flushed to disk before it replaces the
            old one, and the folder afterwards.
    """
    # The process id keeps several writers of one file apart; the dot hides the file from searches for data.
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
    """Replaces the content of `path` atomically by text (as UTF-8) or bytes; see `replacing`.

    Raises:
        OSError: the disk is full or not writable; the old content stays.
    """
    with replacing(path, durable=durable) as unfinished:
        unfinished.write_bytes(data.encode("utf-8") if isinstance(data, str) else data)


def _sync(path: Path) -> None:
    """Flushes the content of a file, or the entries of a folder, to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
