"""The files in `run/checkpoints`: their names, their checksums, and setting damaged ones aside."""

from __future__ import annotations

import hashlib
import logging
import re
from pathlib import Path
from typing import BinaryIO

_NAME = re.compile(r"step-([0-9]{9,12})\.pt")

log = logging.getLogger(__name__)


class CheckpointError(RuntimeError):
    """Raised for a checkpoint that cannot be used or written; the message names the file and says what to do."""


class DamagedCheckpoint(CheckpointError):
    """Raised for a checkpoint whose bytes are not those that were written."""


def file_name(step: int) -> str:
    """Returns the name of a step's checkpoint."""
    return f"step-{step:09d}.pt"


def step_of(path: Path) -> int | None:
    """Returns the step in a checkpoint's name; None if `file_name` gives no such name."""
    match = _NAME.fullmatch(path.name)
    return int(match[1]) if match and path.name == file_name(int(match[1])) else None


def checkpoint_files(folder: Path) -> list[tuple[int, Path]]:
    """Returns (step, path) of the files in `folder` that have the name of a checkpoint, the newest first."""
    found = [(step, path) for path in folder.glob("step-*.pt") if (step := step_of(path)) is not None]
    return sorted((pair for pair in found if pair[1].is_file()), reverse=True)


def require_some_checkpoint(path: Path) -> None:
    """Raises CheckpointError if `path` is neither a file nor a run folder with files of checkpoints; opens none."""
    if not path.is_file() and not any((path / "checkpoints").glob("step-*.pt*")):
        raise no_checkpoint(path)


def no_checkpoint(path: Path) -> CheckpointError:
    """Returns the error that says that there is no checkpoint at `path`."""
    return CheckpointError(f"no checkpoint at {path}: give a run folder (with checkpoints/step-*.pt) or a .pt file")


def checksum_path(path: Path) -> Path:
    """Returns the path of a checkpoint's checksum file."""
    return path.with_name(path.name + ".sha256")


def sha256(file: BinaryIO) -> str:
    """Returns the SHA-256 of the rest of a file, as hexadecimal digits."""
    digest = hashlib.sha256()
    while block := file.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()


def verify(path: Path, *, named: bool = False) -> None:
    """Compares a file's SHA-256 with its recorded checksum.

    Args:
        named: also require that the checksum was recorded under this file's name, so that a copy of an old checkpoint
            is not taken for a newer one.

    Raises:
        DamagedCheckpoint: they differ.
        CheckpointError: the file or its checksum cannot be read, or the checksum was recorded under another name.
    """
    checksum = checksum_path(path)
    try:
        expected, *name = checksum.read_text(encoding="utf-8").split()
        with open(path, "rb") as file:
            actual = sha256(file)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"cannot verify the checkpoint {path}: {error}") from None
    if actual != expected:
        raise DamagedCheckpoint(f"the checkpoint {path} is damaged: its SHA-256 differs from {checksum.name}")
    if named and name and name != [path.name]:
        raise CheckpointError(f"cannot verify the checkpoint {path}: {checksum.name} is that of {name[0]}")


def set_aside(path: Path, *, reason: str) -> None:
    """Renames a checkpoint and its checksum, so that they end in `.reason` and no run uses or deletes them."""
    checksum, aside = checksum_path(path), path.with_name(f"{path.name}.{reason}")
    try:
        path.replace(aside)
        if checksum.exists():
            checksum.replace(checksum_path(aside))
    except OSError as error:
        log.warning("could not rename %s to %s: %s", path, aside.name, error)
    else:
        log.warning("%s is now named %s", path, aside.name)


def set_aside_files(folder: Path, *, reason: str) -> list[Path]:
    """Returns the checkpoints that `set_aside` has renamed for this reason."""
    return sorted(folder.glob(f"step-*.pt.{reason}"))
