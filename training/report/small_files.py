"""Reads the small files of a run folder; one that cannot be used is left out with a sentence."""

from __future__ import annotations

from pathlib import Path

from common.terminal import print_error
from settings.yaml_files import read_start

_MAX_CHARACTERS = 2**18
"""Largest length, in characters, of config.yaml, environment.json and the results of evaluate.py."""


def read_small(path: Path) -> str:
    """The text of a file of bounded length.

    Raises:
        OSError, ValueError: it cannot be read, is not UTF-8 or too long.
    """
    text = read_start(path, _MAX_CHARACTERS + 1)
    if len(text) > _MAX_CHARACTERS:
        raise ValueError(f"longer than {_MAX_CHARACTERS:,} characters")
    return text


def print_ignored(path: Path, error: Exception) -> None:
    """Prints that a file is left out, and why."""
    reason = "nested too deeply" if isinstance(error, RecursionError) else " ".join(str(error).split())
    print_error("report", f"ignored {path}: {reason}")
