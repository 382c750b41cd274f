"""What all kinds of cases share: where they work, what they start from, what they must end in."""

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
    """A folder to work in, and the originals that cases damage, made when first asked for."""

    folder: Path
    stage: Callable[[str], None] = field(default=lambda stage: None)
    """Is told what is under way, for the case that it never comes back."""

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
        """An empty folder for this case alone."""
        folder = self.folder / "case"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        return folder


Case = Callable[[random.Random, World], str]


def attempt(call: Callable[[], Any], errors: type[Exception] | tuple[type[Exception], ...], *names: str) -> Any:
    """What `call` returns, or the refusal, whose message must be one line that holds all of `names`.

    Raises:
        Finding: another exception, or a message that does not help.
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
    """What the count of results calls it."""
    return f"refused: {type(result).__name__}" if isinstance(result, Exception) else "taken"


def check(holds: bool, what: str) -> None:
    """Raises Finding unless what was taken was taken correctly."""
    if not holds:
        raise Finding(what)


def working_folder() -> Path:
    """A new folder, in memory where the machine has one there."""
    memory = Path("/dev/shm")
    return Path(tempfile.mkdtemp(prefix="fuzz-", dir=memory if memory.is_dir() else None))
