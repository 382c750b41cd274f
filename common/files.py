"""Atomic file writes."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

_LONGEST_NAME = 150
"""Longest name, in bytes, that `file_name` returns; file systems allow 255, but callers add suffixes."""
_HASHED = re.compile(r"~[0-9a-f]{16}$")


def writer() -> str:
    """Names this process among all that may write the same folder, on this machine or others, in a file name."""
    return f"{file_name(os.uname().nodename)}-{os.getpid()}"


@contextmanager
def replacing(path: Path, *, durable: bool = False) -> Iterator[Path]:
    """Yields a temporary path beside `path`; the file written there replaces `path` if the block ends without an error.

    A reader sees either the complete old or the complete new content. If the block or the replacement fails, the old
    content stays and the temporary file is removed.

    Args:
        durable: whether the new content must survive a power failure: the file is flushed to disk before it replaces
            the old one, and the folder is flushed afterwards.
    """
    # With `writer`, several processes that write one file do not collide; with the dot, globs such as shard-* leave the
    # file out.
    unfinished = path.with_name(f".{path.name}.{writer()}.tmp")
    try:
        yield unfinished
        if durable:
            sync(unfinished)
        unfinished.replace(path)
    except BaseException:
        with suppress(OSError):
            unfinished.unlink(missing_ok=True)
        raise
    if durable:
        sync(path.parent)


def write_atomically(path: Path, data: str | bytes, *, durable: bool = False) -> None:
    """Replaces the content of `path` atomically with text (as UTF-8) or bytes; see `replacing`.

    Raises:
        OSError: the disk is full or not writable; the old content stays, unless only the flush of the folder failed.
    """
    with replacing(path, durable=durable) as unfinished:
        unfinished.write_bytes(data.encode("utf-8") if isinstance(data, str) else data)


def write_json_lines(path: Path, entries: Iterable[Mapping[str, Any]], *, durable: bool = False) -> None:
    """Writes one JSON object per line; see `write_atomically`."""
    text = "".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in entries)
    write_atomically(path, text, durable=durable)


def read_json_lines(path: Path) -> list[Any]:
    """Reads what `write_json_lines` wrote. `splitlines` would also break lines within some names.

    Raises:
        OSError, ValueError: the file cannot be read, or a line is not JSON.
    """
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


def file_name(text: str) -> str:
    """Returns `text` in a form that is safe as part of a file name; different texts give different names.

    `/`, `%` and unprintable characters become %xx; a long text is cut and ends in a hash.
    """
    name = "".join(c if c.isprintable() and c not in "/%" else quote(c, "", errors="surrogatepass") for c in text)
    raw = name.encode("utf-8")
    # A name that looks like one with a hash gets a hash too; otherwise it could be that of a long text.
    if len(raw) <= _LONGEST_NAME and not _HASHED.search(name):
        return name
    digest = hashlib.blake2b(raw, digest_size=8).hexdigest()
    return f"{raw[: _LONGEST_NAME - 20].decode('utf-8', 'ignore')}~{digest}"


def make_folder(path: Path) -> None:
    """Makes a folder and its missing parents, which then survive a power failure.

    Raises:
        OSError: a folder cannot be made.
    """
    if path.is_dir():
        return
    make_folder(path.parent)
    path.mkdir(exist_ok=True)
    sync(path.parent)


def sync(path: Path) -> None:
    """Flushes the content of a file, or the entries of a folder, to disk.

    Raises:
        OSError: the disk is full or broken.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network file systems cannot flush folders.
        if error.errno != errno.EINVAL or not path.is_dir():
            raise
    finally:
        os.close(descriptor)


def file_sha256(path: Path) -> str:
    """SHA-256 of a file as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
