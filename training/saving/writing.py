"""File objects for torch.save: one also computes a checksum, the other only counts bytes."""

from __future__ import annotations

import hashlib
from typing import Any, BinaryIO

import torch


class HashingFile:
    """A file that computes the SHA-256 of its data while writing."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._hash = file, hashlib.sha256()

    def write(self, data: bytes) -> int:
        self._hash.update(data)
        return self._file.write(data)

    def flush(self) -> None:
        self._file.flush()

    def save(self, state: dict[str, Any]) -> None:
        """Runs torch.save into this file; raises OSError if the disk fails."""
        try:
            torch.save(state, self)  # type: ignore[arg-type]  # it calls write and flush only
        except RuntimeError as error:
            # torch reports a failed write as a RuntimeError about an unexpected position.
            raise (error.__context__ if isinstance(error.__context__, OSError) else error) from None

    @property
    def digest(self) -> str:
        return self._hash.hexdigest()


class _CountingFile:
    """A file that counts the bytes written and discards them."""

    def __init__(self) -> None:
        self.count = 0

    def write(self, data: bytes) -> int:
        self.count += len(data)
        return len(data)

    def flush(self) -> None:
        pass


def saved_bytes(state: dict[str, Any]) -> int:
    """Returns the bytes that a checkpoint of `state` would take, without writing it."""
    counting = _CountingFile()
    torch.save(state, counting)  # type: ignore[arg-type]  # it calls write and flush only
    return counting.count
