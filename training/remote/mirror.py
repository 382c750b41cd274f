"""Copies the folder of a run to an object store, in a thread of its own."""

from __future__ import annotations

import logging
import os
import threading
import time
from contextlib import suppress
from pathlib import Path

from common.phases import say
from common.stores import RemotePath, StoreFileNotFound
from training.remote.places import CHECKPOINTS, local_steps, small_files, stored_steps
from training.saving.files import checksum_path, file_name

POLL_SECONDS = 1.0
"""Interval in seconds at which the thread looks for a new checkpoint."""
SMALL_SECONDS = 60.0
"""Interval in seconds at which changed files such as metrics.jsonl are copied; a checkpoint copies them too."""
LARGE_BYTES = 128 * 2**20
"""Size in bytes above which a file is copied without reading all of it into memory."""
PAUSE_SECONDS = 5.0
"""Seconds before a failed copy is tried again; short, because each request has been repeated for minutes by then."""

log = logging.getLogger(__name__)


class Mirror:
    """Keeps the folder `url` in step with the local folder of a run.

    In the store a checkpoint is complete once its checksum is there. That is written last, after the checkpoint and
    after the files that belong to it, such as metrics.jsonl; each of them is replaced atomically. So a run that is
    resumed from the store never finds half a checkpoint, nor one whose metrics are missing.

    If the store cannot be reached, a warning says so, the run continues, and all that is missing is copied later.

    Args:
        folder: the local folder.
        url: the folder in the store.
        keep, milestone_every: which checkpoints stay in the store; as in `CheckpointConfig`.
        lost: set when another process writes to `url`; nothing is copied from then on.
    """

    def __init__(
        self, folder: Path, url: RemotePath, *, keep: int, milestone_every: int = 0, lost: threading.Event
    ) -> None:
        self.folder, self.url = folder, url
        self._keep, self._milestone_every = keep, milestone_every
        self._lost = lost
        self._copied: dict[str, tuple[int, int]] = {}
        """Size and time of each small file when it was last copied."""
        self._steps = stored_steps({file.key for file in url.files()})
        self._after = max(self._steps, default=-1)
        """Newest step in the store at the start. Local checkpoints before it are not copied: the store has had them and
        deleted them since, or was given the newer one first."""
        self._gone: set[int] = set()
        """Steps whose local checkpoint was deleted before it could be copied."""
        self._small_due = time.monotonic() + SMALL_SECONDS
        self._failing = False
        self._finishing = threading.Event()
        self._thread = threading.Thread(target=self._work, name="mirror", daemon=True)

    def start(self) -> None:
        """Begins to copy."""
        self._thread.start()

    def copy_now(self) -> None:
        """Copies everything, before `start`; raises StoreError or OSError if that fails."""
        self._copy(everything=True)

    def finish(self) -> None:
        """Asks for one last copy of everything, after which the thread ends; returns at once."""
        self._finishing.set()

    def wait(self, seconds: float) -> bool:
        """Waits until the last copy is complete, but at most `seconds`; returns whether it is."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def missing(self) -> list[str]:
        """Returns the names of the files that have yet to be copied, checkpoints first."""
        names = [f"{CHECKPOINTS}/{file_name(step)}" for step in self._pending()]
        return names + [name for name, path in small_files(self.folder) if self._is_changed(name, path)]

    def _work(self) -> None:
        while not self._lost.is_set():
            # Read before copying: what was written before `finish` was called must be copied in this round.
            finishing = self._finishing.is_set()
            try:
                self._copy(everything=finishing)
            except Exception as error:  # any error would otherwise end only this thread, unnoticed
                self._warn(error)
                self._lost.wait(PAUSE_SECONDS)
                continue
            if finishing:
                return
            self._finishing.wait(POLL_SECONDS)

    def _warn(self, error: Exception) -> None:
        if not self._failing:
            self._failing = True
            log.warning(
                "cannot copy the run to %s: %s; training continues, all files are in %s, and copying is retried",
                *(self.url, error, self.folder),
            )

    def _copy(self, *, everything: bool) -> None:
        pending = self._pending()
        if pending or everything or time.monotonic() >= self._small_due:
            self._copy_small_files()
            self._small_due = time.monotonic() + SMALL_SECONDS
            while (pending := self._pending()) and not self._lost.is_set():
                self._copy_small_files()  # those of a checkpoint that was saved after the copies above
                self._copy_checkpoint(pending[0])
            if self._failing:
                self._failing = False
                say(f"{self.url} can be written to again")

    def _pending(self) -> list[int]:
        """The steps of the checkpoints to copy: the newest first, because a run is resumed from the newest."""
        here = local_steps(self.folder) - self._steps - self._gone
        return sorted((step for step in here if step > self._after), reverse=True)

    def _is_changed(self, name: str, path: Path) -> bool:
        with suppress(OSError):
            return self._copied.get(name) != _version(path)
        return False  # it was removed a moment ago

    def _copy_small_files(self) -> None:
        for name, path in small_files(self.folder):
            if self._lost.is_set():
                return
            try:
                version = _version(path)
                if self._copied.get(name) != version:
                    if version[0] > LARGE_BYTES:  # such as a trace of the profiler
                        (self.url / name).upload(path)
                    else:  # such as metrics.jsonl, which may grow meanwhile: the copy is a beginning of it
                        (self.url / name).write_bytes(path.read_bytes())
                    self._copied[name] = version
            except StoreFileNotFound:
                raise  # the bucket is gone
            except FileNotFoundError:
                continue  # the file was removed a moment ago

    def _copy_checkpoint(self, step: int) -> None:
        local = self.folder / CHECKPOINTS / file_name(step)
        remote = self.url / CHECKPOINTS / local.name
        try:
            checksum = checksum_path(local).read_bytes()
            remote.upload(local)
        except StoreFileNotFound:
            raise  # the bucket is gone
        except FileNotFoundError:
            self._gone.add(step)  # this run has saved newer ones meanwhile, and deleted this one
            return
        if self._lost.is_set():
            return
        (remote.parent / f"{remote.name}.sha256").write_bytes(checksum)
        self._steps.add(step)
        self._prune()

    def _prune(self) -> None:
        """Deletes stored checkpoints that the local folder no longer has, once enough newer ones are stored."""
        here = local_steps(self.folder)
        if len(here & self._steps) < min(self._keep, len(self._steps)):
            return
        newest = max(here & self._steps, default=-1)
        for step in sorted(self._steps - here):
            if step < newest and not (self._milestone_every and step % self._milestone_every == 0):
                path = self.url / CHECKPOINTS / file_name(step)
                # The checksum first: a checkpoint without one counts as incomplete, so none is ever read half deleted.
                (path.parent / f"{path.name}.sha256").unlink(missing_ok=True)
                path.unlink(missing_ok=True)
                self._steps.discard(step)


def _version(path: Path) -> tuple[int, int]:
    status = os.stat(path)
    return status.st_size, status.st_mtime_ns
