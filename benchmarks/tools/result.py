"""A benchmark's result: its medians, and where it is written."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any


def medians(runs: list[dict[str, float]]) -> dict[str, float]:
    """Of each figure, over runs that have the same ones."""
    return {name: statistics.median(run[name] for run in runs) for name in runs[0]}


def publish(result: dict[str, Any], path: Path | None) -> None:
    """Prints a result as JSON, and writes it where a path is given."""
    print(json.dumps(result, indent=1))
    if path is not None:
        write(result, path)


def write(result: dict[str, Any], path: Path) -> None:
    path.write_text(json.dumps(result, indent=1) + "\n")
