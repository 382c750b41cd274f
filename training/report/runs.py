"""Reads the runs of a report: their curves, settings and environments."""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from common.trees import flatten


class ReportError(ValueError):
    """Raised when a report cannot be drawn; the message is for the user."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run folder."""

    name: str
    path: Path
    curves: dict[str, tuple[np.ndarray, np.ndarray]]
    """Maps each metric to (steps [n] float64 ascending, values [n] float64, which may not be finite)."""
    config: dict[str, Any] = field(default_factory=dict)
    """Maps each dotted key of config.yaml to its value; empty without that file."""
    environment: dict[str, Any] = field(default_factory=dict)
    """Maps each dotted key of environment.json to its value; empty without that file."""

    def last(self, metric: str) -> float | None:
        """Returns the metric's last value, or None if the run does not have the metric."""
        return float(self.curves[metric][1][-1]) if metric in self.curves else None


def read_runs(paths: list[Path]) -> list[Run]:
    """Reads the runs of these folders (or metrics.jsonl files) and gives them distinct names.

    Raises:
        ReportError: a folder has no metrics.jsonl, or that file has no complete line.
    """
    folders = [path.parent if path.name == "metrics.jsonl" else path for path in paths]
    short = [folder.resolve().name for folder in folders]
    names = short if len(set(short)) == len(short) else [str(folder) for folder in folders]
    return [_read_run(folder, name) for folder, name in zip(folders, names, strict=True)]


def _read_run(folder: Path, name: str) -> Run:
    return Run(
        name=name,
        path=folder,
        curves=_curves(folder / "metrics.jsonl"),
        config=flatten(_read_optional(folder / "config.yaml", yaml.safe_load)),
        environment=flatten(_read_optional(folder / "environment.json", json.loads)),
    )


def _curves(path: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    try:
        texts = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        raise ReportError(f"{path.parent} is not a run folder: it holds no metrics.jsonl") from None
    except OSError as error:
        raise ReportError(f"cannot read {path}: {error}") from None
    points: dict[str, dict[float, float]] = defaultdict(dict)
    broken = []
    for number, text in enumerate(texts, start=1):
        line = _parse(text)
        if line is None:
            broken.append(number)
            continue
        step = float(line.pop("step"))
        for metric, value in line.items():
            if isinstance(value, int | float) and not isinstance(value, bool):
                points[metric][step] = float(value)
    if not points:
        what = "is empty: no step has been logged yet" if not texts else "has no complete line of metrics"
        raise ReportError(f"{path} {what}")
    # A kill may leave a partial last line, which needs no warning.
    if broken and broken != [len(texts)]:
        print(f"report: {path}: {len(broken)} broken line(s) ignored, the first is line {broken[0]}", file=sys.stderr)
    return {metric: _sorted_columns(values) for metric, values in points.items()}


def _parse(text: str) -> dict[str, Any] | None:
    try:
        line = json.loads(text)
    except (json.JSONDecodeError, RecursionError):
        return None
    step = line.get("step") if isinstance(line, dict) else None
    return line if isinstance(step, int | float) and np.isfinite(step) else None


def _sorted_columns(values: dict[float, float]) -> tuple[np.ndarray, np.ndarray]:
    steps = sorted(values)
    return np.array(steps), np.array([values[step] for step in steps])


def _read_optional(path: Path, parse: Any) -> dict[str, Any]:
    try:
        tree = parse(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, yaml.YAMLError) as error:
        print(f"report: ignored {path}: {' '.join(str(error).split())}", file=sys.stderr)
        return {}
    return tree if isinstance(tree, dict) else {}
