"""A benchmark's result: its medians, what they depend on, and where it goes."""

from __future__ import annotations

import json
import os
import platform
import statistics
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from training.environment import git, processor


def environment(*packages: str) -> dict[str, Any]:
    """Hardware, versions (of Python, torch and `packages`) and commit."""
    return {
        "cpu": processor(),
        "cores": len(os.sched_getaffinity(0)),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in ("torch", *packages)}},
        "commit": git("rev-parse", "HEAD") or None,
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


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
