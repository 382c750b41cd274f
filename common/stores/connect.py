"""Which kind of access serves a URL."""

from __future__ import annotations

from functools import lru_cache

from common.stores.backend import NATIVE, Backend
from common.stores.urls import split_url


@lru_cache(maxsize=64)
def connect(scheme: str, bucket: str) -> Backend:
    """Returns the access to a bucket; imports the package that it needs, and makes no request.

    Raises:
        StoreError: the package is not installed, or fsspec knows no such scheme.
    """
    if scheme in NATIVE:
        from common.stores.native import NativeBackend

        return NativeBackend(scheme, bucket)
    from common.stores.generic import GenericBackend

    return GenericBackend(scheme, bucket)


def open_backend(url: str) -> tuple[Backend, str]:
    """Returns the access to the bucket of `url`, and the key of `url` in it."""
    scheme, bucket, key = split_url(url)
    return connect(scheme, bucket), key
