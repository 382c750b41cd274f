"""Reads checkpoint files; declared sizes are compared with the size of the file before memory is allocated."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from training.saving.files import CheckpointError


def load(path: Path, *, device: torch.device | str = "cpu") -> Any:
    """Returns the contents of a checkpoint; only tensors and plain values are ever unpickled.

    Raises:
        CheckpointError: the file is not a checkpoint, or declares more data than it has.
    """
    peek(path)
    return _load(path, map_location=device)


def peek(path: Path) -> Any:
    """Like `load`, but memory-maps the tensors, so that they are read from the file only when they are used.

    Mapped tensors are slices of the file, so a tensor that declares more data than the file has is rejected here.

    Raises:
        CheckpointError: the file cannot be read, or is no checkpoint of this program.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            parts = archive.infolist()
        claimed, size = sum(part.file_size for part in parts), path.stat().st_size
    except (OSError, zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise _unreadable(path, error) from error
    if claimed > size or any(part.compress_type != zipfile.ZIP_STORED for part in parts):
        raise CheckpointError(
            f"the checkpoint {path} cannot be read: its parts claim {claimed} bytes, but the file has {size}; it is "
            "damaged, or not a checkpoint of this program"
        )
    return _load(path, map_location="cpu", mmap=True)


def is_finite(state: Any) -> bool:
    """Returns whether all weights, statistics and optimiser states in a checkpoint's contents are finite."""
    parts = (state.get("model"), state.get("optimizer")) if isinstance(state, dict) else ()
    return all(bool(torch.isfinite(t).all()) for t in _tensors(parts) if t.is_floating_point())


def is_steady(state: Any) -> bool:
    """Returns whether the gradient of the last step before the checkpoint was finite."""
    guard = state.get("guard") if isinstance(state, dict) else None
    in_a_row = guard.get("in_a_row") if isinstance(guard, dict) else None
    return not (isinstance(in_a_row, torch.Tensor) and in_a_row.numel() == 1 and int(in_a_row) > 0)


def _load(path: Path, **options: Any) -> Any:
    try:
        return torch.load(str(path), weights_only=True, **options)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # torch raises many types here, depending on the file
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> CheckpointError:
    # torch's own message is long and recommends unpickling arbitrary objects, so it is not repeated.
    what = "damaged, or not a checkpoint of this program"
    return CheckpointError(f"the checkpoint {path} cannot be read: it is {what} ({type(error).__name__})")


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, dict):
        yield from _tensors(tuple(value.values()))
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _tensors(item)
