"""OUT in an object store: shards are written to a local folder, copied to the store when they are full, and removed.

In the store, OUT has the same files as on a disk. A shard is copied before its index, and the manifest after everything
it names, so whoever reads OUT meanwhile sees only what is complete. A run that was killed at any moment, or
whose machine was lost, continues from what the store has.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

from common.files import make_folder, write_atomically
from common.phases import begin
from common.stores import RemotePath, StoreError, StoreFileNotFound
from common.stores.lease import Lease, LeaseTaken
from pipeline.prepare.records import PrepareError
from pipeline.shards.index.files import LINES, PACKED, index_file, index_files
from pipeline.shards.meta import is_version

RECIPE = "recipe.json"
_META = "manifest/meta.json"
_SHARED = ("labels.jsonl", "sources.json")
"""Files that all parts write, in addition to the index."""
_PARALLEL = 16
"""Number of small files that are read at the same time."""

_Version = tuple[int, int]


class RemoteOut:
    """OUT in a store and its local stand-in, for one part (i of n) of the sources; used as a context manager.

    Args:
        url: OUT.
        folder: folder of this machine; each part has a subfolder of its own in it.
        part: as for `Staging`.

    Attributes:
        folder: the subfolder of this part.
        sizes: size in bytes of each shard in the store, by file name.

    Raises:
        PrepareError: another process works on this part, or the local folder belongs to another OUT.
        StoreError, OSError: the store or the local folder cannot be read or written.
    """

    def __init__(self, url: RemotePath, folder: Path, *, part: tuple[int, int]) -> None:
        name = "part" if part[1] == 1 else f"part-{part[0]}of{part[1]}"
        self.url, self.folder = url, folder / name
        self.sizes: dict[str, int] = {}
        self._journal = f"index/{name}.rejected"
        self._agreed: dict[str, _Version] = {}
        """Size and time of each small file of the local folder when it was last equal to that in the store."""
        self._etags: dict[str, str] = {}
        """Entity tag of each small file in the store when it was last read or written here."""
        make_folder(self.folder)
        self._lock = (self.folder / ".lock").open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._lease = Lease(url / ".staging" / f"{name}.lease", place=str(self.folder), what=f"{url} ({name})")
        except BaseException as error:
            self._lock.close()
            if isinstance(error, BlockingIOError | LeaseTaken):
                held = f"{url} ({name}) is in use by another process" if isinstance(error, OSError) else str(error)
                raise PrepareError(f"{held}; wait for it, or stop it") from None
            raise

    def __enter__(self) -> RemoteOut:
        return self

    def __exit__(self, *exception: object) -> None:
        self._lease.release()
        self._lock.close()

    def pull(self) -> None:
        """Makes the small files of the local folder equal to those in the store, and deletes shards that the store has.

        Shards that the store lacks stay, with their indices: `push` copies them.

        Raises:
            PrepareError: the local folder belongs to another OUT.
            StoreError, OSError: the store or the local folder cannot be read or written.
        """
        begin(f"reading what {self.url} holds")
        files = {file.key: file for file in self.url.files()}
        self.sizes = {key: file.size for key, file in files.items() if "/" not in key and key.endswith(".tar")}
        if RECIPE not in files and (self.folder / RECIPE).exists() and self._has_index():
            raise PrepareError(
                f"{self.folder} belongs to an earlier data set at {self.url}, which is empty now: delete {self.folder}"
            )
        wanted = [key for key in files if _is_small(key) and self._etags.get(key) != files[key].etag]
        with ThreadPoolExecutor(_PARALLEL) as pool:
            for start in range(0, len(wanted), 4 * _PARALLEL):
                batch = wanted[start : start + 4 * _PARALLEL]
                for key, content in zip(batch, pool.map(lambda key: (self.url / key).read_bytes(), batch), strict=True):
                    self._take(key, content)
                    self._etags[key] = files[key].etag
        for path in self.folder.glob("shard-*.tar"):
            # A shard whose index is in the store is there too, perhaps from another machine.
            if any(f"index/{path.stem}{suffix}" in files for suffix in (PACKED, LINES)):
                path.unlink()
        for key, path in self._small_files():
            # The index of a shard that is still here has yet to be copied.
            if key.startswith("index/") and key not in files and not self._has_shard(path) and key != self._journal:
                path.unlink()
                self._forget(key)

    def has_changed(self) -> bool:
        """Whether another machine has written index files, labels or the list of sources since `pull`."""
        found = [file for file in self.url.files() if file.key in _SHARED or file.key.startswith("index/")]
        return any(self._etags.get(file.key) != file.etag for file in found)

    def push(self) -> None:
        """Copies all finished shards to the store, then the small files that have changed; removes the local shards.

        Raises:
            PrepareError: another process has taken over this part.
            StoreError, OSError: the store or the local folder cannot be read or written.
        """
        if self._lease.lost.is_set():
            raise PrepareError(f"another process has taken over this part of {self.url}")
        waiting = [path for path in sorted(self.folder.glob("shard-*.tar")) if self._index_of(path).exists()]
        for path in waiting:
            (self.url / path.name).upload(path)
            self.sizes[path.name] = path.stat().st_size
        changed = [(key, path) for key, path in self._small_files() if self._agreed.get(key) != _version(path)]
        for key, path in sorted(changed, key=lambda item: (_copy_order(item[0]), item[0])):
            version, content = _version(path), path.read_bytes()
            if key == RECIPE:
                self._agree_on_recipe(content)
            else:
                (self.url / key).write_bytes(content)
            self._agreed[key] = version
            self._note_etag(key)
        for path in waiting:
            path.unlink()
        for key in [key for key in self._agreed if not (self.folder / key).exists()]:
            (self.url / key).unlink(missing_ok=True)
            self._forget(key)

    def _agree_on_recipe(self, content: bytes) -> None:
        # If several machines begin at the same time with different settings, the first to write the recipe continues.
        recipe = self.url / RECIPE
        if not recipe.create(content) and recipe.read_bytes() != content:
            (self.folder / RECIPE).unlink()
            raise PrepareError(f"another machine has just begun to prepare {self.url} with other settings")

    def publish(self) -> None:
        """Copies everything and, at the end, the manifest; then removes the previous manifest and empty shards."""
        self.push()
        meta = self.folder / _META
        version = json.loads(meta.read_text(encoding="utf-8"))["version"]
        previous = self._published_version()
        begin(f"writing the manifest of {self.url}")
        for path in sorted((meta.parent / version).iterdir()):
            (self.url / "manifest" / version / path.name).upload(path)
        merged = meta.with_name("merged.json")
        if merged.exists():
            (self.url / "manifest" / merged.name).upload(merged)
        else:
            self._remove(["manifest/merged.json"])
        (self.url / _META).write_bytes(meta.read_bytes())
        # Anyone may have written meta.json, and its version becomes part of a path.
        if is_version(previous) and previous != version:
            self._remove(f"manifest/{previous}/{name}" for name in _names(self.url / "manifest" / str(previous)))
        empty = [path for path in index_files(self.folder) if not path.stat().st_size]
        self._remove(f"{path.stem}.tar" for path in empty if f"{path.stem}.tar" in self.sizes)

    def holds(self, shard: str, rows: Sequence[Mapping[str, Any]]) -> bool:
        """Whether the store has the shard, and it is large enough for the rows of its index.

        Shards are written whole, so its size and its last row, which holds the largest offset, are enough to tell.
        """
        last = rows[-1] if rows else {"audio_offset": 0, "audio_samples": 0}
        return shard in self.sizes and self.sizes[shard] >= last["audio_offset"] + 2 * last["audio_samples"]

    def damaged_message(self, name: str, error: Exception) -> str:
        """Returns the error message for a damaged index, or for an index without its shard."""
        index = index_file(self.folder, name).name
        return (
            f"{self.url}/index/{index} or its shard {name}.tar is damaged ({error}): move both elsewhere, then "
            "run the same command again, which prepares their sources again"
        )

    def _remove(self, keys: Iterable[str]) -> None:
        for key in keys:
            (self.url / key).unlink(missing_ok=True)

    def _published_version(self) -> Any:
        with suppress(StoreFileNotFound, ValueError, KeyError, TypeError, RecursionError):
            return json.loads((self.url / _META).read_bytes())["version"]
        return None

    def _take(self, key: str, content: bytes) -> None:
        """Replaces a small file by the store's, except this part's journal if it continues the one in the store."""
        path = self.folder / key
        here = path.read_bytes() if path.exists() else None
        if key == self._journal and here is not None and here.startswith(content) and here != content:
            return
        if here != content:
            make_folder(path.parent)
            write_atomically(path, content)
        self._agreed[key] = _version(path)

    def _forget(self, key: str) -> None:
        self._agreed.pop(key, None)
        self._etags.pop(key, None)

    def _note_etag(self, key: str) -> None:
        with suppress(StoreError):
            self._etags[key] = (self.url / key).stat().etag

    def _small_files(self) -> list[tuple[str, Path]]:
        """The local files that are copied whenever they change, as (name within OUT, path)."""
        paths = [*self.folder.glob("*.json*"), *(self.folder / "index").glob("*")]
        named = [(path.relative_to(self.folder).as_posix(), path) for path in paths]
        return [(key, path) for key, path in named if _is_small(key)]

    def _index_of(self, shard: Path) -> Path:
        return index_file(self.folder, shard.stem)

    def _has_shard(self, index: Path) -> bool:
        return (self.folder / f"{index.stem}.tar").exists()

    def _has_index(self) -> bool:
        return bool(index_files(self.folder))


def _copy_order(key: str) -> int:
    """The order of copying: the index of a shard comes last, because it relies on the other small files."""
    return 2 if key.endswith((PACKED, LINES)) and key.startswith("index/") else 0 if "/" not in key else 1


def _is_small(key: str) -> bool:
    """Whether a name within OUT is that of a small file, which the local folder and the store both hold."""
    top, _, rest = key.partition("/")
    if any(part.startswith(".") for part in key.split("/")) or "/" in rest:
        return False
    return top == "index" if rest else key.endswith((".json", ".jsonl"))


def _names(folder: RemotePath) -> list[str]:
    return [file.key for file in folder.files()]


def _version(path: Path) -> _Version:
    status = os.stat(path)
    return status.st_size, status.st_mtime_ns
