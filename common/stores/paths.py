"""Paths in object stores, with the part of pathlib.Path's interface that this project needs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import unquote, urlsplit

from common.files import replacing
from common.stores.backend import StoredFile
from common.stores.connect import open_backend
from common.stores.errors import StoreFileChanged, StoreFileNotFound
from common.stores.retries import retrying
from common.stores.urls import UrlError, check_url, is_url


@dataclass(frozen=True)
class RemotePath:
    """A file or folder in an object store. Folders exist only as prefixes of the names of files.

    All methods may be called by several threads at once. Requests that fail temporarily are repeated
    (common.stores.retries).

    Attributes:
        url: scheme://bucket/key, without a slash at its end.

    Raises:
        StoreError: an OSError with a sentence for the user: no access, no such bucket, no response, or a package is not
            installed. `StoreFileNotFound` is also a FileNotFoundError.
    """

    url: str

    def __str__(self) -> str:
        return self.url

    def __fspath__(self) -> str:
        raise TypeError(f"{self.url} is in an object store and cannot be opened as a file on this machine")

    def __truediv__(self, name: str) -> RemotePath:
        return RemotePath(f"{self.url}/{name.strip('/')}")

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.url.rpartition("/")[2]

    @property
    def parent(self) -> RemotePath:
        """The folder that holds it; the bucket is its own parent."""
        above = self.url.rpartition("/")[0]
        return self if above.endswith("/") else RemotePath(above)

    def resolve(self) -> RemotePath:
        """Returns the path itself: there are no symbolic links."""
        return self

    @property
    def parents(self) -> list[RemotePath]:
        """The folders that hold it, the nearest first."""
        return [] if self.parent == self else [self.parent, *self.parent.parents]

    @property
    def is_listable(self) -> bool:
        """Whether the store can list its files; plain web servers cannot."""
        return open_backend(self.url)[0].lists

    def stat(self) -> StoredFile:
        """Returns what the store knows of a file: its key, size, etag and time."""
        backend, key = open_backend(self.url)
        return retrying(lambda: backend.head(key), f"find {self.url}")

    def exists(self) -> bool:
        """Whether there is a file here, or a folder with files."""
        return self.is_file() or self.is_dir()

    def is_file(self) -> bool:
        """Whether there is a file here."""
        try:
            self.stat()
        except StoreFileNotFound:
            return False
        return True

    def is_dir(self) -> bool:
        """Whether there are files below this path; False in a store that cannot list its files."""
        backend, key = open_backend(self.url)
        if not backend.lists:
            return False
        return retrying(lambda: next(iter(backend.list(key)), None) is not None, f"list {self.url}")

    def files(self) -> list[StoredFile]:
        """Returns all files below this folder, at any depth, sorted; their keys are relative to it."""
        backend, key = open_backend(self.url)
        skipped = len(key) + 1 if key else 0
        found = retrying(lambda: list(backend.list(key)), f"list {self.url}")
        return sorted((replace(file, key=file.key[skipped:]) for file in found), key=lambda file: file.key)

    def read_bytes(self, start: int = 0, size: int | None = None) -> bytes:
        """Returns `size` bytes from byte `start` (None: all to the end); fewer bytes if the file ends before."""
        return bytes(self.read(start, size)[0])

    def read(self, start: int, size: int | None) -> tuple[bytes | memoryview, str]:
        """Like `read_bytes`, without a copy, and with the file's etag; the etag is empty if `size` is 0."""
        backend, key = open_backend(self.url)
        if size == 0:
            return b"", ""
        return retrying(lambda: backend.get(key, start, size), f"read {self.url}")

    def read_text(self, encoding: str = "utf-8") -> str:
        """Returns the content of a text file."""
        return self.read_bytes().decode(encoding)

    def write_bytes(self, data: bytes) -> None:
        """Replaces the file; a reader sees either all of the old content or all of the new."""
        backend, key = open_backend(self.url)
        retrying(lambda: backend.put(key, data), f"write {self.url}")

    def create(self, data: bytes) -> bool:
        """Writes the file unless there is one already; returns whether it was written.

        If several processes do so at the same time in a store of S3, Google or Azure, only the one whose data was
        written gets True. (If the response to its request is lost, even that one may get False.)
        """
        backend, key = open_backend(self.url)
        return retrying(lambda: backend.create(key, data), f"write {self.url}")

    def download(self, target: Path, *, size: int | None = None) -> None:
        """Copies the file to the local file `target`, which is replaced atomically.

        Args:
            size: its size in bytes, if that is known already.
        """
        size = self.stat().size if size is None else size
        position = 0
        with replacing(target) as unfinished, unfinished.open("wb") as file:
            while position < size:
                part = self.read(position, min(DOWNLOAD_BYTES, size - position))[0]
                if not part:
                    raise StoreFileChanged(f"{self.url} became shorter while it was read")
                file.write(part)
                position += len(part)

    def upload(self, source: Path) -> None:
        """Like `write_bytes`, with the content of the local file `source`; a large one is sent in several parts."""
        backend, key = open_backend(self.url)
        retrying(lambda: backend.put(key, source), f"write {self.url}")

    def unlink(self, missing_ok: bool = False) -> None:
        """Deletes the file."""
        backend, key = open_backend(self.url)
        try:
            retrying(lambda: backend.delete(key), f"delete {self.url}")
        except StoreFileNotFound:
            if not missing_ok:
                raise


DOWNLOAD_BYTES = 64 * 2**20
"""Size in bytes of the parts in which a file is downloaded."""
Location = Path | RemotePath
"""A file or folder, on this machine or in an object store."""


def location(text: str | Path | RemotePath) -> Location:
    """Returns the path that `text` names: a `RemotePath` for a URL, otherwise a `Path`; file:// URLs are local too.

    Nothing is accessed or imported. Serves as the type of command line arguments.

    Raises:
        UrlError: as for `check_url`, or a file:// URL names another machine.
    """
    if isinstance(text, RemotePath) or not is_url(text):
        return text if isinstance(text, (Path, RemotePath)) else Path(text)
    url = str(text)
    check_url(url)
    if url.lower().startswith("file://"):
        parts = urlsplit(url)
        if parts.netloc not in ("", "localhost"):
            raise UrlError(f"{url} names a file on another machine; write file:///FOLDER with three slashes")
        return Path(unquote(parts.path))
    scheme, _, rest = url.partition("://")
    return RemotePath(f"{scheme.lower()}://{'/'.join(part for part in rest.split('/') if part)}")
