"""Brings a run, or one of its checkpoints, from an object store to this machine."""

from __future__ import annotations

import logging
import uuid
from contextlib import suppress
from fnmatch import fnmatchcase
from itertools import count
from pathlib import Path

from common.files import make_folder, write_atomically
from common.phases import begin
from common.stores import RemotePath, StoreFileNotFound
from settings import ConfigError
from training.remote.places import CHECKPOINTS, IDENTITY, LEASE, local_steps, small_files, stored_steps
from training.saving.files import CheckpointError, checksum_path, file_name, step_of, verify
from training.saving.folder import TRACES
from training.saving.lock import NAME as LOCK

_NOT_NEEDED = ("tensorboard/", "profile/")
"""Files that a resumed run does not read; it writes new ones beside them."""

log = logging.getLogger(__name__)


def fetch_run(url: RemotePath, folder: Path, *, resume: str) -> None:
    """Makes the local folder of a run hold what the store has, so that the run can start or be resumed there.

    If the local folder has a newer checkpoint of the same run than the store, it stays as it is: an earlier process
    could not copy all of it. If it belongs to an earlier run at the same URL, its files are moved to another folder.

    Args:
        resume: as for `find_resume_checkpoint`.

    Raises:
        ConfigError: the store holds a run, but a new one is to start.
        CheckpointError: no checkpoint in the store can be used.
        StoreError, OSError: the store or the local folder cannot be read or written.
    """
    begin(f"looking for the run in {url}")
    names = {file.key for file in url.files()}
    stored = (url / IDENTITY).read_text() if IDENTITY in names else None
    if resume == "never":
        _require_new(url, names)
    _set_other_aside(folder, stored, url)
    make_folder(folder)
    if stored is None:
        stored = uuid.uuid4().hex
        (url / IDENTITY).write_bytes(stored.encode())
    write_atomically(folder / IDENTITY, stored)
    if resume not in ("never", "auto"):
        _supersede_later(url, names, step_of(Path(resume)))
    steps, here = stored_steps(names), local_steps(folder)
    if here and max(here) >= max(steps, default=-1):
        return
    begin(f"copying the run from {url} to {folder}")
    for name in sorted(names - {LEASE, IDENTITY}):
        if not name.startswith((f"{CHECKPOINTS}/", *_NOT_NEEDED)):
            fetch_file(url, folder, name)
    if steps:
        # Last, because it tells the next start that all is here.
        fetch_newest(url, folder, steps)


def _require_new(url: RemotePath, names: set[str]) -> None:
    found = [name for name in sorted(names) if any(fnmatchcase(name, f"{trace}*") for trace in TRACES)]
    if found:
        raise ConfigError(
            f"{url} already holds a run (up to {found[0]}): resume with --resume auto, or choose a different run_dir"
        )


def _set_other_aside(folder: Path, stored: str | None, url: RemotePath) -> None:
    """Moves the content of the local folder away if it does not belong to the run whose name is `stored`."""
    try:
        here = (folder / IDENTITY).read_text(encoding="utf-8")
    except (FileNotFoundError, UnicodeDecodeError):
        here = None
    if here == stored or not any(small_files(folder)):
        return
    aside = next(
        path for number in count(1) if not (path := folder.with_name(f"{folder.name}.earlier-{number}")).exists()
    )
    aside.mkdir()
    for path in folder.iterdir():
        if path.name != LOCK:  # it is locked, at this path
            path.rename(aside / path.name)
    log.warning("%s holds another run than before, so its earlier local copy is now %s", url, aside)


def _supersede_later(url: RemotePath, names: set[str], step: int | None) -> None:
    """Takes their checksums from the checkpoints after `step`: the run will train these steps again."""
    for later in sorted(stored_steps(names)):
        if step is not None and later > step:
            checksum = f"{CHECKPOINTS}/{file_name(later)}.sha256"
            (url / f"{checksum}.superseded").write_bytes((url / checksum).read_bytes())
            (url / checksum).unlink()
            names.discard(checksum)
            log.warning("%s is superseded: its checksum now ends in .superseded", url / CHECKPOINTS / file_name(later))


def fetch_newest(url: RemotePath, folder: Path, steps: set[int]) -> Path:
    """Copies the newest of the checkpoints that is not damaged to the local folder `folder`; returns its path.

    Raises:
        CheckpointError: none can be used.
        StoreError, OSError: the store or the local folder cannot be read or written.
    """
    problems = []
    for step in sorted(steps, reverse=True):
        try:
            return fetch_checkpoint(url, folder, step)
        except CheckpointError as error:
            problems.append(str(error))
            log.warning("%s; trying the previous one", error)
    raise CheckpointError(f"none of the checkpoints in {url} can be used: {'; '.join(problems)}")


def fetch_checkpoint(url: RemotePath, folder: Path, step: int) -> Path:
    """Copies a checkpoint of the run at `url` to its local folder, and verifies it; returns its local path.

    Raises:
        CheckpointError: the store's copy is missing or damaged.
        StoreError, OSError: the store or the local folder cannot be read or written.
    """
    remote = url / CHECKPOINTS / file_name(step)
    local = folder / CHECKPOINTS / remote.name
    make_folder(local.parent)
    try:
        checksum = (remote.parent / f"{remote.name}.sha256").read_bytes()
        if local.exists() and checksum_path(local).read_bytes() == checksum:
            with suppress(CheckpointError):
                verify(local, named=True)
                return local
        # The checksum first, as when a checkpoint is saved: no checkpoint is without it.
        write_atomically(checksum_path(local), checksum)
        remote.download(local)
        verify(local, named=True)
    except StoreFileNotFound as error:
        raise CheckpointError(f"the checkpoint {remote} is not complete: {error}") from None
    except CheckpointError as error:
        local.unlink(missing_ok=True)
        checksum_path(local).unlink(missing_ok=True)
        raise CheckpointError(str(error).replace(str(local), str(remote))) from None
    return local


def fetch_file(url: RemotePath, folder: Path, name: str) -> None:
    """Copies a file of a run to its local folder."""
    target = (folder / name).resolve()
    if not target.is_relative_to(folder.resolve()):
        log.warning("%s is not copied: its name leads out of the folder", url / name)
        return
    make_folder(target.parent)
    (url / name).download(target)
