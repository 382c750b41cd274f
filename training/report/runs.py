"""Reads the runs of a report: their curves, settings and environments."""

from __future__ import annotations

import functools
import json
import stat
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from common.terminal import print_error, printable
from common.trees import flatten
from settings.yaml_files import parse_yaml
from training.report.evaluations import Evaluation, read_evaluations
from training.report.small_files import print_ignored, read_small

_MAX_BYTES = 2**31
"""Largest metrics.jsonl that is read; a run of a million logged steps writes half of it."""
_MAX_LINE = 2**20
"""Longest line of metrics.jsonl, in bytes; longer ones count as broken."""
_MAX_METRICS = 1000
"""Largest number of distinct metrics of a run; further ones are ignored."""


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

    evaluations: list[Evaluation] = field(default_factory=list)

    def last(self, metric: str) -> float | None:
        """Returns the metric's last value, or None if the run does not have the metric."""
        return float(self.curves[metric][1][-1]) if metric in self.curves else None

    def recent(self, metric: str) -> float | None:
        """Returns the metric's mean over the last thirtieth of its finite values, or None if it has none."""
        if metric not in self.curves:
            return None
        values = self.curves[metric][1]
        values = values[np.isfinite(values)]
        return float(values[len(values) * 29 // 30 :].mean()) if len(values) else None


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
        config=_read_optional(folder / "config.yaml", parse_yaml),
        environment=_read_optional(folder / "environment.json", _parse_json),
        evaluations=read_evaluations(folder),
    )


def _curves(path: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    points: dict[str, tuple[array[float], array[float]]] = {}
    broken, count = [], 0
    for count, text in enumerate(_lines(path), start=1):
        line = _parse(text)
        if line is None:
            broken.append(count)
            continue
        step = line.pop("step")
        for metric, value in line.items():
            columns = points.get(metric)
            if columns is None:
                if len(points) >= _MAX_METRICS:
                    continue
                columns = points[metric] = array("d"), array("d")
            columns[0].append(step)
            columns[1].append(value)
    if not points:
        what = "has no complete line of metrics" if count else "is empty: no step has been logged yet"
        raise ReportError(f"{path} {what}")
    # A kill may leave a partial last line, which needs no warning.
    if broken and broken != [count]:
        print_error("report", f"{path}: {len(broken)} broken line(s) ignored, the first is line {broken[0]}")
    return {metric: _sorted_columns(*columns) for metric, columns in points.items()}


def _lines(path: Path) -> Iterator[bytes]:
    """Yields the lines of metrics.jsonl; of a line that is too long, only the beginning.

    Raises:
        ReportError: the file is missing, too large, or cannot be read.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise ReportError(f"{path} is not a regular file")
        if status.st_size > _MAX_BYTES:
            raise ReportError(f"{path} has {status.st_size:,} bytes; a report reads at most {_MAX_BYTES:,}")
        with path.open("rb") as file:
            while text := file.readline(_MAX_LINE):
                yield text
                while not text.endswith(b"\n") and (text := file.readline(_MAX_LINE)):
                    pass
    except FileNotFoundError:
        raise ReportError(f"{path.parent} is not a run folder: it holds no metrics.jsonl") from None
    except OSError as error:
        raise ReportError(f"cannot read {path}: {error.strerror}") from None


def _parse(text: bytes) -> dict[str, float] | None:
    """The numbers of a line, which include its step; None for a broken line. Huge integers become infinite."""
    try:
        line = json.loads(text.decode("utf-8", "replace"))
    except (ValueError, RecursionError):
        return None
    if not isinstance(line, dict):
        return None
    numbers = {
        _name(name): _float(value)
        for name, value in line.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }
    # Beyond 2**53, neighbouring steps would be the same number.
    return numbers if abs(numbers.get("step", np.nan)) <= 2**53 else None


_name = functools.lru_cache(maxsize=4096)(printable)
"""The same few names stand in every line."""


def _float(value: float) -> float:
    try:
        return float(value)
    except OverflowError:
        return np.inf if value > 0 else -np.inf


def _sorted_columns(steps: array[float], values: array[float]) -> tuple[np.ndarray, np.ndarray]:
    """The points by ascending step; of several for one step, the last."""
    unique, first = np.unique(np.array(steps)[::-1], return_index=True)
    return unique, np.array(values)[::-1][first]


def _read_optional(path: Path, parse: Callable[[str, str], Any]) -> dict[str, Any]:
    """The flat values of config.yaml or environment.json; empty, with a warning, if it cannot be used."""
    try:
        tree = parse(read_small(path), path.name)
        return flatten(tree) if isinstance(tree, dict) else {}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        print_ignored(path, error)
        return {}


def _parse_json(text: str, what: str) -> Any:
    return json.loads(text)
