"""The local folder of a run, and the files in it, by the role they play in the copy in the object store."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from common.stores import Location, RemotePath, location
from common.stores.scratch import scratch_folder
from common.stores.urls import UrlError
from settings import Config, ConfigError
from training.saving.files import checkpoint_files, step_of
from training.saving.lock import NAME as LOCK

IDENTITY = "run_id"
"""File with a random name of the run; a local copy with another one belongs to an earlier run at the same URL."""
LEASE = "run.lease"
"""File of the lease on the run folder in the object store."""
CHECKPOINTS = "checkpoints"


def as_location(text: str | Path) -> Location:
    """Returns the place that `text` names.

    Raises:
        ConfigError: it is a URL that cannot be used, for example because it holds a password.
    """
    try:
        return location(text)
    except UrlError as error:
        raise ConfigError(str(error)) from None


def run_url(config: Config) -> RemotePath | None:
    """Returns the URL of a run's folder; None if that is a folder of this machine."""
    where = as_location(config.run_dir)
    return where if isinstance(where, RemotePath) else None


def run_folder(config: Config) -> Path:
    """Returns the folder of this machine that a run writes to: run_dir, or the local copy of a URL."""
    where = as_location(config.run_dir)
    return where if isinstance(where, Path) else scratch_folder(where, "runs", base=config.checkpoint.scratch)


def small_files(folder: Path) -> Iterator[tuple[str, Path]]:
    """Yields (name relative to `folder`, path) of all files of a run except its checkpoints and its lock."""
    for parent, folders, files in os.walk(folder):
        here = Path(parent)
        if here == folder:
            folders[:] = [name for name in folders if name != CHECKPOINTS]
        folders[:] = [name for name in folders if not (here / name).is_symlink()]
        for name in files:
            path = here / name
            if not (name.endswith(".tmp") or path.is_symlink() or path == folder / LOCK):
                yield path.relative_to(folder).as_posix(), path


def stored_steps(names: set[str]) -> set[int]:
    """Returns the steps of the complete checkpoints among the names of files: those with a checksum beside them."""
    steps = {name: step_of(Path(name)) for name in names if name.startswith(f"{CHECKPOINTS}/step-")}
    return {step for name, step in steps.items() if step is not None and f"{name}.sha256" in names}


def local_steps(folder: Path) -> set[int]:
    """Returns the steps of the checkpoints in a run's local folder, which are complete as soon as they are there."""
    return {step for step, _ in checkpoint_files(folder / CHECKPOINTS)}
