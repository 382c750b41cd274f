"""What all kinds of cases share: the working folder, the originals, and the checks of how a case ends."""

from __future__ import annotations

import random
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from tests.fuzz import originals

LONGEST_MESSAGE = 2000
"""Largest allowed number of characters in an error message."""

MAY_CRASH = "prepare"
"""The stage in which a crash, a hang or a lack of memory is no finding: in use, worker processes contain it."""


class Finding(Exception):
    """A case did not end as required."""


@dataclass
class World:
    """The working folder, and the valid originals that cases damage; the originals are made at first use."""

    folder: Path
    stage: Callable[[str], None] = field(default=lambda stage: None)
    """Called with the name of each step, so that a crash or a hang can be attributed to it."""

    @cached_property
    def media(self) -> dict[str, bytes]:
        return originals.media(self.folder / "originals")

    @cached_property
    def prepared(self) -> dict[str, Path]:
        return originals.prepared(self.folder / "originals")

    @cached_property
    def checkpoint(self) -> bytes:
        return originals.checkpoint()

    def scratch(self) -> Path:
        """Makes an empty folder for one case."""
        folder = self.folder / "case"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        return folder


Case = Callable[[random.Random, World], str]


def attempt(call: Callable[[], Any], errors: type[Exception] | tuple[type[Exception], ...], *names: str) -> Any:
    """Returns the result of `call`, or the exception that it raised if it is one of `errors`.

    Raises:
        Finding: the message of the error is not one short line that contains all of `names`.
    """
    try:
        return call()
    except errors as error:
        message = str(error)
        lacking = [name for name in names if name not in message]
        if not message.strip() or len(message.splitlines()) != 1 or len(message) > LONGEST_MESSAGE or lacking:
            raise Finding(
                f"{type(error).__name__} of {len(message)} characters lacks {lacking}: {message!r:.600}"
            ) from error
        return error


def outcome(result: object) -> str:
    """Returns the name of a result of `attempt` for the report."""
    return f"refused: {type(result).__name__}" if isinstance(result, Exception) else "accepted"


def check(condition: bool, problem: str) -> None:
    """Raises Finding(problem) unless `condition` holds, because accepted input must be read correctly."""
    if not condition:
        raise Finding(problem)


def working_folder() -> Path:
    """Makes a new temporary folder, in memory (/dev/shm) if the machine has such a file system."""
    memory = Path("/dev/shm")
    return Path(tempfile.mkdtemp(prefix="fuzz-", dir=memory if memory.is_dir() else None))
