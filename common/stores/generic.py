"""All other URLs that fsspec knows, such as hf:// of the Hugging Face Hub, sftp:// or memory://."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

from common.environment import missing_packages
from common.stores.backend import INSTALL, StoredFile
from common.stores.errors import StoreError, StoreFileNotFound, without_secrets
from common.stores.retries import TemporaryError

_ETAGS = ("ETag", "etag", "e_tag", "blob_id", "oid", "md5", "mtime", "modified", "created", "LastModified")
"""Entries of fsspec's description of a file that change with its content, the best first."""

_TIMES = ("LastModified", "mtime", "modified", "last_modified")
"""Entries of fsspec's description of a file that say when it was written."""

T = TypeVar("T")


class GenericBackend:
    """Implements `common.stores.backend.Backend`; `get` returns no etag, because fsspec tells none with the bytes.

    Raises:
        StoreError: fsspec knows no such scheme, or the package that serves it is not installed.
    """

    lists = True

    def __init__(self, scheme: str, bucket: str) -> None:
        if missing_packages("fsspec"):
            raise StoreError(f"{scheme}:// needs the package fsspec: {INSTALL}")
        import fsspec

        self._root = f"{scheme}://{bucket}"
        try:
            # Listings change while a command runs, so none may be remembered.
            self._files = fsspec.filesystem(scheme, use_listings_cache=False)
        except ImportError as error:
            raise StoreError(f"{scheme}:// needs another package: {INSTALL} ({error})") from None
        except ValueError as error:
            raise StoreError(f"{scheme}:// is no kind of URL that fsspec knows: {error}") from None

    def head(self, key: str) -> StoredFile:
        found = self._ask(key, lambda: self._files.info(self._path(key)))
        if found["type"] == "directory":
            raise StoreFileNotFound(f"{self._path(key)} is a folder, not a file")
        return StoredFile(key, int(found["size"] or 0), _etag(found), _modified_ns(found))

    def list(self, prefix: str) -> Iterator[StoredFile]:
        try:
            found = self._ask(prefix, lambda: self._files.find(self._path(prefix), detail=True))
        except StoreFileNotFound:
            return
        root = self._files._strip_protocol(self._root).strip("/")
        for path, entry in found.items():
            key = path.strip("/").removeprefix(root).strip("/")
            if key != prefix:
                yield StoredFile(key, int(entry["size"] or 0), _etag(entry), _modified_ns(entry))

    def get(self, key: str, start: int, size: int | None) -> tuple[bytes, str]:
        end = None if size is None else start + size
        return self._ask(key, lambda: self._files.cat_file(self._path(key), start=start, end=end)), ""

    def put(self, key: str, data: bytes | Path) -> None:
        if isinstance(data, Path):
            self._ask(key, lambda: self._files.put_file(str(data), self._path(key)))
        else:
            self._ask(key, lambda: self._files.pipe_file(self._path(key), data))

    def create(self, key: str, data: bytes) -> bool:
        def request() -> bool:
            if self._files.exists(self._path(key)):
                return False
            self._files.pipe_file(self._path(key), data)
            return True

        return self._ask(key, request)

    def delete(self, key: str) -> None:
        self._ask(key, lambda: self._files.rm_file(self._path(key)))

    def _path(self, key: str) -> str:
        return f"{self._root}/{key}" if key else self._root

    def _ask(self, key: str, request: Callable[[], T]) -> T:
        """Makes a request, and translates its errors."""
        name = self._path(key)
        try:
            return request()
        except FileNotFoundError as error:
            raise StoreFileNotFound(f"there is no file {name} ({without_secrets(str(error))})") from None
        except (PermissionError, NotImplementedError, IsADirectoryError) as error:
            kind = type(error).__name__
            raise StoreError(f"access to {name} is denied ({kind}: {without_secrets(str(error))})") from None
        except Exception as error:  # each package has its own
            if (status := getattr(getattr(error, "response", None), "status_code", 0)) in (401, 403):
                raise StoreError(f"access to {name} is denied (status {status}): check the credentials") from None
            raise TemporaryError(f"{type(error).__name__}: {error}") from None


def _etag(entry: dict[str, Any]) -> str:
    found = next((entry[name] for name in _ETAGS if entry.get(name)), "")
    return str(found.timestamp() if isinstance(found, datetime) else found)


def _modified_ns(entry: dict[str, Any]) -> int:
    found = next((entry[name] for name in _TIMES if entry.get(name)), -1)
    if isinstance(found, datetime):
        return round(found.timestamp() * 1e9)
    return round(found * 1e9) if isinstance(found, int | float) and found >= 0 else -1
