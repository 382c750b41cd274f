"""The head of a prepared data set, `manifest/meta.json`: what it holds, and which files belong to it.

Needs neither NumPy nor torch, so that a command can refuse a data set before it imports them.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, overload

from common.stores import Location, RemotePath, StoreError
from common.stores.errors import StoreFileNotFound
from settings.load import format_value

FORMAT = 2
"""Version of the format that is written. Format 1, which has no checksums, is read too."""
REBUILD = "delete the folder manifest and run pipeline.prepare again: it is rebuilt from the shards' index"
"""What to do about a damaged manifest."""

_REQUESTS = 16
"""Number of requests in flight where files cannot be listed."""
_SEAL_KEY = b'"sha256": "'
# Strict, because the name becomes part of paths that are read, and removed when a new version is published.
_VERSION = re.compile(r"[0-9a-f]+(-[0-9a-f]+)?")
_META: dict[str, type] = {"samples": int, "sample_rate": int, "streams": str, "fingerprint": str, "version": str}
_META_LISTS: dict[str, type] = {"label_columns": str, "shards": str, "shard_bytes": int, "shard_sha256": str}


class ChecksumError(ValueError):
    """The content differs from its checksum."""


class ManifestError(ValueError):
    """The manifest is missing or damaged, or does not match its shards; the message is meant for the user."""


@overload
def meta_file(root: Path) -> Path: ...
@overload
def meta_file(root: RemotePath) -> RemotePath: ...
def meta_file(root: Location) -> Location:
    """Returns the path of the data set's meta.json."""
    return root / "manifest" / "meta.json"


def is_prepared(root: Location) -> bool:
    """Whether a folder holds prepared data, as opposed to other files; always true where files cannot be listed.

    Raises:
        StoreError: the object store does not tell.
    """
    return (isinstance(root, RemotePath) and not root.is_listable) or meta_file(root).exists()


def read_meta(root: Location) -> dict[str, Any]:
    """Reads and checks the meta.json of the prepared folder `root`, which may be in an object store.

    Raises:
        ManifestError: there is none, it is damaged, or of a format that this version does not read.
    """
    path = meta_file(root)
    try:
        meta = unsealed(path.read_bytes())
    except FileNotFoundError as error:
        why = f" ({error})" if isinstance(error, StoreError) else ""
        raise ManifestError(
            f"{root} holds no manifest{why}; make one with: python -m pipeline.prepare SRC {root}"
        ) from None
    except StoreError as error:
        raise ManifestError(str(error)) from None
    except (OSError, ValueError, RecursionError) as error:
        raise ManifestError(f"cannot read {path}: {error}; {REBUILD}") from None
    try:
        if meta["format"] not in (1, FORMAT):
            found = f"{path} has format {format_value(meta['format'])}"
            raise ManifestError(f"{found}, this version reads 1 and {FORMAT}; {REBUILD}")
        if meta["format"] == 1:
            meta |= {"shard_sha256": [""] * len(meta["shards"])}
        _check_meta(meta)
    except ManifestError:
        raise
    except (KeyError, TypeError, ValueError) as error:
        raise damaged(path, error) from None
    return meta


def damaged(path: Location, error: Exception) -> ManifestError:
    """Returns the error that says that meta.json is damaged."""
    found = " ".join(f"{type(error).__name__}: {error}".split())
    return ManifestError(f"{path} is damaged ({found}); {REBUILD}")


def check_shards(root: Location, meta: Mapping[str, Any]) -> list[str]:
    """Raises ManifestError if a shard is missing or has another size than meta.json says.

    Returns:
        The etag of each shard, by which a later change is noticed; "" for files of this machine.
    """
    try:
        stored = _stored(root, meta["shards"]) if isinstance(root, RemotePath) else _present(root, meta["shards"])
    except StoreError as error:
        raise ManifestError(str(error)) from None
    for name, size in zip(meta["shards"], meta["shard_bytes"], strict=True):
        if name not in stored:
            raise ManifestError(f"{root / name} is missing, though the manifest names it; restore it or prepare again")
        if stored[name][0] != size:
            found = f"{root / name} has {stored[name][0]:,} bytes, the manifest expects {size:,}"
            raise ManifestError(f"{found}; copy it again or prepare again")
    return [stored[name][1] for name in meta["shards"]]


def _present(root: Path, names: Sequence[str]) -> dict[str, tuple[int, str]]:
    """Sizes of the shards that exist in a folder of this machine, by name, each with an empty etag."""
    found = {}
    for name in names:
        with suppress(FileNotFoundError, NotADirectoryError):
            found[name] = (os.stat(f"{root}/{name}").st_size, "")  # a Path takes ten times as long
    return found


def _stored(root: RemotePath, names: Sequence[str]) -> dict[str, tuple[int, str]]:
    """Sizes and etags of the shards that exist in an object store, by name."""
    if root.is_listable:
        return {file.key: (file.size, file.etag) for file in root.files()}
    from concurrent.futures import ThreadPoolExecutor  # not above: commands read this module before they say a word

    def ask(name: str) -> tuple[int, str] | None:
        try:
            file = (root / name).stat()
        except StoreFileNotFound:
            return None
        return file.size, file.etag

    with ThreadPoolExecutor(_REQUESTS) as threads:
        found = zip(names, threads.map(ask, names), strict=True)
        return {name: file for name, file in found if file is not None}


def sealed(content: Mapping[str, Any]) -> str:
    """JSON text of `content` (not empty), whose last key `sha256` is the SHA-256 of the text before it."""
    body = json.dumps(content, indent=1).removesuffix("\n}") + ",\n "
    return f'{body}"sha256": "{hashlib.sha256(body.encode()).hexdigest()}"\n}}\n'


def unsealed(data: bytes) -> dict[str, Any]:
    """Reads what `sealed` wrote; text without a seal (format 1) is read unchecked.

    Raises:
        ChecksumError: the seal does not match.
        ValueError, RecursionError: `data` is not JSON.
    """
    body, key, seal = data.rpartition(_SEAL_KEY)
    if key and hashlib.sha256(body).hexdigest().encode() != seal[:64]:
        raise ChecksumError("its content differs from the SHA-256 at its end")
    return json.loads(data.decode("utf-8"))


def is_version(name: Any) -> bool:
    """Whether `name` is a valid name of a version folder."""
    return isinstance(name, str) and _VERSION.fullmatch(name) is not None


def _check_meta(meta: Mapping[str, Any]) -> None:
    """Raises ValueError or KeyError unless meta.json has all entries, with values of the right type."""
    for key, kind in _META.items():
        if type(meta[key]) is not kind or (kind is int and meta[key] < 0):
            raise ValueError(f"{key} is {format_value(meta[key])}")
    for key, kind in _META_LISTS.items():
        if type(meta[key]) is not list or any(type(item) is not kind for item in meta[key]):
            raise ValueError(f"{key} is {format_value(meta[key])}")
    if not len(meta["shards"]) == len(meta["shard_bytes"]) == len(meta["shard_sha256"]):
        raise ValueError("shards, shard_bytes and shard_sha256 differ in length")
    if meta["format"] != 1 and not {"array_sha256", "sha256"} <= meta.keys():
        raise ValueError("array_sha256 or sha256 is missing")
    if not is_version(meta["version"]):
        raise ValueError(f"version is {format_value(meta['version'])}")
    if meta["sample_rate"] == 0:
        raise ValueError("sample_rate is 0")
    for name in meta["shards"]:
        if not name.isprintable() or "/" in name or name in ("", ".", ".."):
            raise ValueError(
                f"a shard is named {format_value(name)}, which is not the name of a file next to the folder manifest"
            )
