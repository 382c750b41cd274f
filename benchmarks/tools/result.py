"""Computes and writes the result of a benchmark."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

from common.finite import require_finite


def medians(runs: list[dict[str, float]]) -> dict[str, float]:
    """The median of each figure over runs with the same figures.

    Raises:
        NotFiniteError: a figure is not finite.
    """
    for name in runs[0]:
        require_finite([run[name] for run in runs], f"the values of {name}", name=lambda run: f"run {run + 1}")
    return {name: statistics.median(run[name] for run in runs) for name in runs[0]}


def publish(result: dict[str, Any], path: Path | None) -> None:
    """Prints a result as JSON and writes it to `path` unless that is None."""
    print(json.dumps(result, indent=1))
    if path is not None:
        write(result, path)


def write(result: dict[str, Any], path: Path) -> None:
    """Writes a result as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n")
