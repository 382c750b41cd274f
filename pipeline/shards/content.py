"""Whether the arrays of a manifest hold what preparation wrote: checked when it is opened, or later if it is large."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.cpu_priority import use_idle_priority
from common.files import file_sha256
from pipeline.shards.meta import REBUILD, ManifestError
from pipeline.shards.ranges import Arrays, impossible_number

_log = logging.getLogger(__name__)


def check_content(folder: Path, meta: Mapping[str, Any], arrays: Arrays, *, fps: float, offsets: bool) -> None:
    """Compares the arrays in `folder` with their checksums, and checks that their numbers are possible ones.

    Args:
        meta: content of meta.json.
        arrays: the arrays, of the right types and lengths.
        fps: frame rate of the videos.
        offsets: whether frame_offsets, by far the largest array, is checked too.

    Raises:
        ManifestError: an array is damaged.
    """
    if meta["format"] != 1:  # format 1 has no checksums
        _check_hashes(folder, meta["array_sha256"], [name for name in arrays if offsets or name != "frame_offsets"])
    if found := impossible_number(arrays, meta, fps=fps, offsets=offsets):
        raise ManifestError(f"{folder}/{found[0]}.npy is damaged: {found[1]}; {REBUILD}")


def is_first_on_machine() -> bool:
    """Whether this is the first of the processes that share this machine, which torchrun numbers by LOCAL_RANK."""
    return os.environ.get("LOCAL_RANK", "0") == "0"


def _check_hashes(folder: Path, hashes: Mapping[str, str], names: Iterable[str]) -> None:
    for name in names:
        if file_sha256(folder / f"{name}.npy") != hashes[name]:
            raise ManifestError(f"{folder}/{name}.npy is damaged: its SHA-256 differs from meta.json; {REBUILD}")


class LaterCheck:
    """A check that the first process of a machine runs in a thread of idle priority, while the data set is in use.

    Args:
        check: raises ManifestError if the manifest is damaged.
    """

    def __init__(self, check: Callable[[], None]) -> None:
        self._check = check
        self._error: ManifestError | None = None
        self._thread = threading.Thread(target=self._run, name="manifest-check", daemon=True)
        if is_first_on_machine():
            self._thread.start()

    def raise_if_damaged(self) -> None:
        """Raises ManifestError if the check has already found damage."""
        if self._error is not None:
            raise self._error

    def finish(self) -> None:
        """Waits for the check to end; if another process of this machine runs it, runs it here as well.

        Raises:
            ManifestError: the manifest is damaged.
        """
        if self._thread.ident is None:
            self._try()
        else:
            self._thread.join()
        self.raise_if_damaged()

    def _run(self) -> None:
        use_idle_priority()
        self._try()

    def _try(self) -> None:
        try:
            self._check()
        except ManifestError as error:
            self._error = error
        except FileNotFoundError as error:
            # Preparation has published another version. The old arrays stay readable, as this process has them mapped.
            _log.warning(
                "%s was replaced before it was checked; this process keeps using the old content", error.filename
            )
        except Exception as error:  # any other would otherwise end only this thread, unnoticed
            self._error = ManifestError(f"the manifest can no longer be checked ({type(error).__name__}: {error})")


class Reopened(Mapping[str, NDArray[Any]]):
    """The arrays `names` in `folder`, each mapped into memory anew whenever it is used.

    So the pages of an array that has been read stop counting as this process's memory once the array is dropped.
    """

    def __init__(self, folder: Path, names: Sequence[str]) -> None:
        self._folder, self._names = folder, names

    def __getitem__(self, name: str) -> NDArray[Any]:
        if name not in self._names:
            raise KeyError(name)
        path = self._folder / f"{name}.npy"
        # An empty array, whose file is only a header of 128 bytes, cannot be mapped.
        return np.load(path, mmap_mode="r" if path.stat().st_size > 128 else None, allow_pickle=False)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)
