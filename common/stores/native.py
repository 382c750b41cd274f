"""Access to S3, Google Cloud Storage, Azure and web servers through obstore.

A request with obstore takes a sixth of the CPU time of one with s3fs (docs/stores.md), because everything behind the
Python call is Rust.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

from common.environment import missing_packages
from common.stores.backend import INSTALL, StoredFile
from common.stores.credentials import azure_options, s3_options
from common.stores.errors import StoreError, StoreFileNotFound, without_secrets
from common.stores.retries import TemporaryError

CONNECT_SECONDS, READ_SECONDS, REQUEST_SECONDS = 5, 30, 300
"""Time limits in seconds: to connect, until the next bytes of a response arrive, and for a whole request."""
PART_BYTES = 16 * 2**20
"""Size in bytes of the parts in which large files are uploaded."""

_STATUS = re.compile(r"status code: (\d{3})")
_SYSTEM_MESSAGE = re.compile(r'message: "([^"]+)"')
_METADATA_SERVICE = "169.254.169.254"
"""Where obstore asks for credentials if it finds none elsewhere: the metadata service of a machine in a cloud."""

T = TypeVar("T")


class NativeBackend:
    """Implements `common.stores.backend.Backend`.

    Raises:
        StoreError: obstore is not installed, or the environment holds settings that it rejects.
    """

    def __init__(self, scheme: str, bucket: str) -> None:
        if missing_packages("obstore"):
            raise StoreError(f"{scheme}:// needs the package obstore: {INSTALL}")
        self._name = f"{scheme}://{bucket}"
        self._scheme, self._bucket = scheme, bucket
        self.lists = scheme not in ("http", "https")
        self._reading = self._open(read_timeout=timedelta(seconds=READ_SECONDS))
        self._writing = self._open()  # without a read timeout, because during an upload nothing is read for a while

    def _open(self, **limits: timedelta) -> Any:
        from obstore import store as kinds
        from obstore.exceptions import BaseError

        client: Any = {"timeout": timedelta(seconds=REQUEST_SECONDS), **limits}
        client["connect_timeout"] = timedelta(seconds=CONNECT_SECONDS)
        # obstore itself gives up soon; common.stores.retries then repeats the request, and tells the user so.
        backoff = {"init_backoff": timedelta(seconds=0.1), "max_backoff": timedelta(seconds=2), "base": 2}
        retries: Any = {"max_retries": 5, "retry_timeout": timedelta(seconds=5), "backoff": backoff}
        common: Any = {"client_options": client, "retry_config": retries}
        try:
            if self._scheme in ("s3", "s3a"):
                options: Any = s3_options()
                client["allow_http"] = str(options.get("endpoint", "")).startswith("http://")
                return kinds.S3Store(self._bucket, **common, **options)
            if self._scheme in ("gs", "gcs"):
                return kinds.GCSStore(self._bucket, **common)
            if self.lists:  # all other schemes that can list files are Azure's
                options = azure_options()
                client["allow_http"] = str(options.get("endpoint", "")).startswith("http://")
                return kinds.AzureStore(self._bucket, **common, **options)
            client["allow_http"] = True
            return kinds.HTTPStore.from_url(self._name, **common)
        except (BaseError, ValueError, TypeError) as error:
            raise StoreError(
                f"cannot open {self._name}: {without_secrets(str(error).partition('Debug source')[0])}"
            ) from None

    def head(self, key: str) -> StoredFile:
        import obstore

        return _stored(self._ask(key, lambda: obstore.head(self._reading, key)))

    def list(self, prefix: str) -> Iterator[StoredFile]:
        import obstore

        if not self.lists:
            raise StoreError(f"{self._name} is a web server, whose files cannot be listed")
        pages = iter(obstore.list(self._reading, prefix or None))
        while (page := self._ask(prefix, lambda: next(pages, None))) is not None:
            yield from map(_stored, page)

    def get(self, key: str, start: int, size: int | None) -> tuple[memoryview, str]:
        import obstore

        def request() -> tuple[memoryview, str]:
            wanted: Any = {"range": {"offset": start} if size is None else (start, start + size)}
            result = obstore.get(self._reading, key, options=wanted if start or size is not None else None)
            return memoryview(result.bytes()), _etag(result.meta)

        return self._ask(key, request)

    def put(self, key: str, data: bytes | Path) -> None:
        import obstore

        self._ask(key, lambda: obstore.put(self._writing, key, data, chunk_size=PART_BYTES, max_concurrency=4))

    def create(self, key: str, data: bytes) -> bool:
        import obstore
        from obstore.exceptions import AlreadyExistsError

        def request() -> bool:
            try:
                obstore.put(self._writing, key, data, mode="create")
            except (AlreadyExistsError, FileExistsError):
                return False
            return True

        return self._ask(key, request)

    def delete(self, key: str) -> None:
        import obstore

        self._ask(key, lambda: obstore.delete(self._writing, key))

    def _ask(self, key: str, request: Callable[[], T]) -> T:
        """Makes a request, and turns obstore's errors into ours."""
        from obstore import exceptions as errors

        name = f"{self._name}/{key}" if key else self._name
        try:
            return request()
        except errors.UnauthenticatedError as error:
            raise _translate(name, f"status code: 401 {error}") from None
        except (errors.BaseError, OSError) as error:
            if isinstance(error, OSError) and error.filename is not None:
                raise  # it is about the local file of an upload
            raise _translate(name, str(error), missing=isinstance(error, FileNotFoundError)) from None


def _translate(name: str, text: str, *, missing: bool = False) -> Exception:
    """Returns our error for a message of obstore, most of whose errors have the same class."""
    text, _, details = text.partition("\n\nDebug source:")
    status = int(found[1]) if (found := _STATUS.search(text)) else 0
    if _METADATA_SERVICE in text:
        return StoreError(
            f"no credentials for {name} were found: set them in the environment (docs/stores.md); for a public S3 "
            "bucket set AWS_SKIP_SIGNATURE=true"
        )
    if "NoSuchBucket" in text or "ContainerNotFound" in text:
        return StoreFileNotFound(f"{name} is in no bucket that exists: check the name of the bucket")
    if missing or status == 404:
        return StoreFileNotFound(f"there is no file {name}")
    if status in (401, 403):
        reason = without_secrets(text) if "<Code>" in text else f"status {status}"
        return StoreError(
            f"access to {name} is denied ({reason}): check the credentials in the environment, and what "
            "they permit (docs/stores.md)"
        )
    if status in (301, 307):
        return StoreError(f"{name} is in another region: set AWS_REGION to that of the bucket")
    if status in (408, 429) or status >= 500 or not status:  # no status: mostly no response came
        return TemporaryError(_cause(text, details))
    return StoreError(f"{name} cannot be used: {without_secrets(text)}")


def _cause(text: str, details: str) -> str:
    """The reason for a temporary failure: the operating system's own message if there is one."""
    if found := _SYSTEM_MESSAGE.search(details):
        return found[1]
    if "kind: Timeout" in details:
        return "no response within the time limit"
    if "kind: Connect" in details:
        return "no connection to the server"
    return text


def _stored(meta: Any) -> StoredFile:
    return StoredFile(meta["path"], meta["size"], _etag(meta), round(meta["last_modified"].timestamp() * 1e9))


def _etag(meta: Any) -> str:
    """The etag without its quotes, which some stores include in only some of their responses."""
    return (meta["e_tag"] or "").removeprefix("W/").strip('"')
