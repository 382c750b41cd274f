"""Copies the manifest of a data set in an object store to this machine, where its arrays can be memory-mapped."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from common.files import file_sha256, replacing, write_atomically
from common.stores import RemotePath, StoreError
from pipeline.shards.meta import REBUILD, ManifestError

_CHUNK = 8 * 2**20
"""Bytes per request."""
_REQUESTS = 8
"""Number of requests in flight."""


def cache_folder(configured: str = "") -> Path:
    """The folder for copies from object stores: `configured`, else $CMACC_SCRATCH, else cm-acc in the user's cache."""
    caches = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(configured or os.environ.get("CMACC_SCRATCH") or Path(caches) / "cm-acc").expanduser()


def copy_manifest(
    root: RemotePath, meta: Mapping[str, Any], names: Iterable[str], folder: Path, *, again: bool = False
) -> Path:
    """Copies the arrays of a manifest to this machine, unless an earlier call has done so.

    Args:
        root: the data set.
        meta: content of its meta.json.
        names: names of the arrays, without .npy.
        folder: the folder for copies (`cache_folder`).
        again: whether to replace copies of an earlier call, because they turned out to be damaged.

    Returns:
        The folder that holds the arrays.

    Raises:
        ManifestError: an array differs from its checksum in meta.json.
        StoreError: a file is missing or cannot be read.
        OSError: the copies cannot be written.
    """
    dataset = folder / "manifests" / hashlib.blake2b(root.url.encode(), digest_size=16).hexdigest()
    target, hashes = dataset / str(meta["version"]), meta.get("array_sha256", {})
    dataset.mkdir(parents=True, exist_ok=True)
    with _locked(dataset / ".lock"):
        # Format 1 has no checksums, so an earlier copy may be of another manifest with the same version.
        if again or not hashes:
            shutil.rmtree(target, ignore_errors=True)
        target.mkdir(exist_ok=True)
        write_atomically(dataset / "url.txt", f"{root.url}\n")
        missing = [name for name in names if not (target / f"{name}.npy").exists()]
        with ThreadPoolExecutor(_REQUESTS) as threads:
            for name in missing:
                source = root / "manifest" / target.name / f"{name}.npy"
                _copy(source, target / f"{name}.npy", hashes.get(name, ""), threads)
        for other in dataset.iterdir():  # of manifests that have been replaced
            if other.is_dir() and other != target:
                shutil.rmtree(other, ignore_errors=True)
    return target


def _copy(source: RemotePath, target: Path, sha256: str, threads: ThreadPoolExecutor) -> None:
    size = source.stat().size
    with replacing(target) as unfinished:
        with unfinished.open("wb") as file:
            for part in threads.map(lambda start: source.read_bytes(start, _CHUNK), range(0, size, _CHUNK)):
                file.write(part)
        if sha256 and file_sha256(unfinished) != sha256:
            raise ManifestError(f"{source} is damaged: its SHA-256 differs from meta.json; {REBUILD}")
        if unfinished.stat().st_size != size:
            raise StoreError(f"{source} changed while it was read; start the command again")


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Lets one process of this machine at a time copy a manifest; the kernel unlocks the file if the process dies."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
