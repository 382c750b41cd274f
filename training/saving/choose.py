"""Chooses the checkpoint that a run is resumed from, and that is evaluated and exported."""

from __future__ import annotations

import logging
from pathlib import Path

from training.saving.contents import is_finite, is_steady, peek
from training.saving.files import (
    CheckpointError,
    DamagedCheckpoint,
    checkpoint_files,
    no_checkpoint,
    set_aside,
    set_aside_files,
    verify,
)

DAMAGED, SUPERSEDED = "damaged", "superseded"
"""File name suffixes of checkpoints that were set aside."""

log = logging.getLogger(__name__)


def newest(folder: Path, *, clean_up: bool = False) -> tuple[Path | None, list[str]]:
    """Chooses the newest checkpoint that is complete, finite, and from before the gradient ceased to be finite.

    If there is none, it is the newest one that is complete and finite. Each skipped checkpoint is named in a warning.

    Args:
        folder: the folder `checkpoints` of a run.
        clean_up: rename damaged files; only the run that owns the folder may do that.

    Returns:
        The checkpoint, or None; and for each skipped checkpoint, why it was not chosen.
    """
    fallback: Path | None = None
    problems: list[str] = []
    for _, path in checkpoint_files(folder):
        problem = _problem(path, clean_up=clean_up)
        if problem is None:
            return path, problems
        if problem.usable:
            fallback = fallback or path
        problems.append(problem.text)
        log.warning("%s; trying the previous one", problem.text)
    return fallback, problems


def require_newest(folder: Path, *, clean_up: bool = False) -> Path | None:
    """Like `newest`, but returns None only if there is no checkpoint at all.

    Raises:
        CheckpointError: there are checkpoints, but none can be used.
    """
    chosen, problems = newest(folder, clean_up=clean_up)
    if chosen is None:
        known = "\n".join(problems)
        # A damaged file that an earlier start renamed still means that the run had progressed.
        problems += [f"{path} is damaged" for path in set_aside_files(folder, reason=DAMAGED) if str(path) not in known]
    if chosen is None and problems:
        listed = "".join(f"\n  {problem}" for problem in problems)
        raise CheckpointError(
            f"none of the checkpoints in {folder} can be used:{listed}\nrestore one of them from a copy, or give the "
            "path of another checkpoint; to start again from the beginning, choose a different run_dir"
        )
    return chosen


def find(path: str | Path) -> Path:
    """Returns `path` if it is a file, else the checkpoint that `newest` chooses in the run folder `path`.

    Raises:
        CheckpointError: there is no checkpoint, or none can be used.
    """
    path = Path(path)
    if path.is_file():
        return path
    chosen = require_newest(path / "checkpoints")
    if chosen is None:
        raise no_checkpoint(path)
    return chosen


def supersede_later(folder: Path, *, step: int) -> None:
    """Sets aside the checkpoints after `step`: the run resumes from that step and will train these steps again."""
    for later, path in checkpoint_files(folder):
        if later > step:
            set_aside(path, reason=SUPERSEDED)


class _Problem:
    def __init__(self, text: str, *, usable: bool) -> None:
        self.text, self.usable = text, usable


def _problem(path: Path, *, clean_up: bool) -> _Problem | None:
    try:
        verify(path, named=True)
        state = peek(path)
    except CheckpointError as error:
        if clean_up and isinstance(error, DamagedCheckpoint):
            set_aside(path, reason=DAMAGED)
        return _Problem(str(error), usable=False)
    if not is_finite(state):
        return _Problem(f"the checkpoint {path} holds weights or an optimiser state that are not finite", usable=False)
    if not is_steady(state):
        return _Problem(f"the gradient before the checkpoint {path} was not finite", usable=True)
    return None
