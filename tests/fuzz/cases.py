"""Shared by all kinds of cases: their folder, their originals, and the checks of how they end."""

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


class Finding(Exception):
    """A case that did not end as it must."""


@dataclass
class World:
    """The working folder, and the originals that cases damage, which are made at first use."""

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
    """Returns the result of `call`, or the error that it raised, if that is one of `errors`.

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
    """Names a result of `attempt` for the report."""
    return f"refused: {type(result).__name__}" if isinstance(result, Exception) else "accepted"


def check(holds: bool, what: str) -> None:
    """Raises Finding(what) unless `holds`: accepted input must be read correctly."""
    if not holds:
        raise Finding(what)


def working_folder() -> Path:
    """Makes a new folder, in memory if the machine has a file system there."""
    memory = Path("/dev/shm")
    return Path(tempfile.mkdtemp(prefix="fuzz-", dir=memory if memory.is_dir() else None))
