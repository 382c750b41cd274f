"""Recorded results: one JSON line per trial, appended when it ends, so that a sweep can be interrupted and resumed."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from experiments.sweep import Planned
from experiments.trial import TrialConfig
from settings import Config, TrainConfig
from settings.load import to_dict

_DEFAULTS = TrialConfig(run=Config(train=TrainConfig(steps=1)))
"""The defaults, which records omit from their settings. A trial needs a number of steps, which has no valid default."""


def load(path: Path) -> list[dict[str, Any]]:
    """The records in a file, without broken lines, such as one that a kill cut off; empty if there is no file."""
    if not path.is_file():
        return []
    records = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            records.append(json.loads(line))
        except (ValueError, RecursionError):
            continue
    return records


def append(path: Path, planned: Planned, found: dict[str, Any], environment: dict[str, Any]) -> None:
    """Appends the record of a trial."""
    record = {
        "group": planned.group,
        "condition": planned.condition,
        "rule": planned.rule,
        "seed": planned.seed,
        "digest": planned.digest,
        **found,
        "environment": environment,
        "settings": _without_defaults(to_dict(planned.settings), to_dict(_DEFAULTS)),
    }
    append_line(path, record)


def append_line(path: Path, record: dict[str, Any]) -> None:
    """Appends a record. Several processes may append to one file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        content = file.read()
        # If a kill cut off the last line, the record must start on a new one.
        file.write(("\n" if content and not content.endswith("\n") else "") + json.dumps(record) + "\n")


def matching(records: Iterable[dict[str, Any]], trials: Iterable[Planned]) -> list[tuple[Planned, dict[str, Any]]]:
    """Each planned trial that has a record, and the record; records of other settings are ignored."""
    by_digest = {record["digest"]: record for record in records}
    return [(trial, by_digest[trial.digest]) for trial in trials if trial.digest in by_digest]


def _without_defaults(tree: dict[str, Any], default: dict[str, Any]) -> dict[str, Any]:
    """The settings that differ from the defaults."""
    found: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict) and isinstance(default.get(key), dict) and default[key]:
            inner = _without_defaults(value, default[key])
            if inner:
                found[key] = inner
        elif value != default.get(key):
            found[key] = value
    return found
