"""What a figure depends on, written beside it."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch


def environment(*packages: str) -> dict[str, Any]:
    """Hardware, versions (of Python, torch and `packages`) and commit."""
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, cwd=Path(__file__).parent)
    return {
        "cpu": _cpu_name(),
        "cores": len(os.sched_getaffinity(0)),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in ("torch", *packages)}},
        "commit": commit.stdout.strip() or None,
    }


def _cpu_name() -> str:
    path = Path("/proc/cpuinfo")
    rows = path.read_text().splitlines() if path.exists() else []
    found = next((row for row in rows if row.startswith("model name")), platform.processor())
    return found.split(":")[-1].strip()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
