"""What a kind of access to stores must offer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

NATIVE = {"s3", "s3a", "gs", "gcs", "az", "azure", "abfs", "abfss", "http", "https"}
"""Schemes that obstore serves; fsspec serves all others."""
INSTALL = "pip install -r requirements-store.txt"
"""The command that installs the optional packages."""


@dataclass(frozen=True)
class StoredFile:
    """A file in a store.

    Attributes:
        key: its path within the bucket.
        size: its length in bytes.
        etag: changes whenever the content does; empty if the store tells none.
        modified_ns: when it was written, in nanoseconds since 1970; -1 if the store does not tell.
    """

    key: str
    size: int
    etag: str
    modified_ns: int = -1


class Backend(Protocol):
    """Access to one bucket; every method may be called by several threads at once.

    Raises:
        TemporaryError: a request may succeed if it is repeated.
        StoreError: it would fail again; StoreFileNotFound if there is no such file or bucket.
    """

    lists: bool
    """Whether `list` works; plain web servers have no listing."""

    def head(self, key: str) -> StoredFile: ...
    def list(self, prefix: str) -> Iterator[StoredFile]: ...
    def get(self, key: str, start: int, size: int | None) -> tuple[bytes | memoryview, str]:
        """Returns bytes [start, start + size) of a file (to its end if `size` is None), and its etag."""

    def put(self, key: str, data: bytes | Path) -> None:
        """Writes a file; readers see it only when it is complete."""

    def create(self, key: str, data: bytes) -> bool:
        """Writes a file unless there is one already; returns whether it was written."""

    def delete(self, key: str) -> None: ...
