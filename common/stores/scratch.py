"""Folders of this machine for what is written to, or read from, an object store."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from common.files import file_name
from common.phases import begin
from common.stores.paths import Location, RemotePath

VARIABLE = "CMACC_SCRATCH"
"""Environment variable that names the folder for local copies."""


def scratch_folder(url: RemotePath, purpose: str, *, base: str = "") -> Path:
    """Returns the folder for a local copy of `url`, the same in every process of this machine; it may not exist yet.

    Args:
        purpose: a word, so that copies for different purposes do not mix.
        base: where such folders are; by default $CMACC_SCRATCH, or cm-acc in the user's folder for caches.
    """
    caches = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    root = Path(base or os.environ.get(VARIABLE) or Path(caches) / "cm-acc")
    digest = hashlib.sha256(url.url.encode()).hexdigest()[:12]
    return (root / purpose / digest / file_name(url.name)).absolute()


@contextmanager
def written_to(place: Location) -> Iterator[Path]:
    """Yields the folder to write to: `place`, or a temporary one whose files are copied to a URL after the block.

    Raises:
        StoreError: a file cannot be copied.
    """
    if isinstance(place, Path):
        yield place
        return
    with TemporaryDirectory(prefix="cm-acc-") as name:
        folder = Path(name)
        yield folder
        copy_folder(folder, place)


def copy_folder(folder: Path, place: RemotePath) -> None:
    """Copies the files of a folder, except hidden ones, to an object store.

    Raises:
        StoreError: a file cannot be copied.
    """
    begin(f"copying the files to {place}")
    files = [path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".")]
    # The oldest first, because files that name others are written after them.
    for path in sorted(files, key=lambda path: path.stat().st_mtime_ns):
        (place / path.relative_to(folder).as_posix()).upload(path)
