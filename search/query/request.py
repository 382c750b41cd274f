"""What a search is asked for, as texts of a command line or a web page; needs only the standard library."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from common.terminal import printable
from search.index.folder import Head, SearchIndexError
from training.saving.files import require_some_checkpoint

DEFAULT_TO = {"sound": "video", "video": "audio", "picture": "audio"}
"""Kind of a file -> the modality that is searched unless another is asked for: the other one."""
MODALITY = {"sound": "audio", "video": "video", "picture": "video"}
"""Kind of a file -> modality of its vector."""
MOST = 1000
"""Most results of a search."""


def conditions(texts: Iterable[str]) -> dict[str, str]:
    """Reads `label=value` conditions.

    Raises:
        SearchIndexError: a text has another form, or names a label twice.
    """
    found: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise SearchIndexError(f"the condition {printable(text)!r} is not of the form label=value")
        if name in found:
            twice = f"the conditions name the label {printable(name)!r} twice"
            raise SearchIndexError(f"{twice}, but a row has one value of it")
        found[name] = value
    return found


def split_time(text: str) -> tuple[str, float | None]:
    """Splits `name@seconds`; the time is None if the text does not end in one."""
    name, at, seconds = text.rpartition("@")
    try:
        time = float(seconds)
    except ValueError:
        return text, None
    return (name, time) if at and name and 0 <= time < 1e9 else (text, None)


def query_file(kind: str, text: str) -> tuple[Path, float | None]:
    """The file that `FILE` or `FILE@SECONDS` names, and the time.

    Raises:
        SearchIndexError: there is no such file.
    """
    name, time = (text, None) if Path(text).exists() else split_time(text)
    if not Path(name).is_file():
        raise SearchIndexError(f"--{kind} {printable(text)}: there is no such file")
    return Path(name), time


def require_run(head: Head, run: Path | None) -> Path:
    """Returns the folder of the run whose encoders made an index: `run` or, if that is None, where it was then.

    Raises:
        SearchIndexError, CheckpointError: it is not there.
    """
    found = Path(head.model["run"]) if run is None else run
    if run is None and not found.exists():
        raise SearchIndexError(f"the run {printable(found)} of the index is not there: say where it is with --run")
    require_some_checkpoint(found)
    return found
