"""What made a result, and what this process may use: versions, commit, processor, cores."""

from __future__ import annotations

import math
import os
import platform
import subprocess
import sys
from fractions import Fraction
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
"""The repository."""

CGROUPS = Path("/sys/fs/cgroup")
"""Where Linux mounts control groups."""

PACKAGES = ("torch", "torchvision", "torchaudio", "nvidia-dali-cuda130", "faiss-gpu", "numpy")
"""Packages whose versions may change the numbers of a run."""


def environment(*packages: str) -> dict[str, Any]:
    """What made a result, in the same words everywhere: command, commit, hardware and versions.

    Args:
        packages: those whose versions are recorded beside Python's and torch's (default: `PACKAGES`).
    """
    import torch

    return {
        "command": sys.argv,
        "commit": git("rev-parse", "HEAD") or None,
        "uncommitted_changes": bool(git("status", "--porcelain")),
        "cpu": processor(),
        "cores": available_cores(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "gpus": torch.cuda.device_count(),
        "versions": {
            "python": platform.python_version(),
            **{name: installed_version(name) for name in dict.fromkeys(("torch", *(packages or PACKAGES)))},
        },
    }


def installed_version(package: str) -> str | None:
    """The version of an installed package; None where it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def git(*arguments: str) -> str:
    """The output of a git command in this repository; empty where there is no git or no repository."""
    try:
        result = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return result.stdout.strip()


def processor() -> str:
    """The CPU's name."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor()


def available_cores(*, processes: int = 1) -> int:
    """Cores that this process may keep busy, at least 1.

    That is the cores it may run on (taskset, cpusets, bound SLURM tasks), or as many as its control group's CPU quota
    pays for if those are fewer (containers), shared among `processes` such processes on this machine.
    """
    cores = len(os.sched_getaffinity(0))
    quota = cpu_quota()
    if quota is not None:
        cores = min(cores, max(1, math.floor(quota)))
    return max(1, cores // processes)


def cpu_quota() -> float | None:
    """CPU time per second that this process's control groups allow, in cores; None without a limit.

    A limit may be set at any level, so the smallest on the way to the root counts. Both versions of control groups are
    read: `cpu.max` (v2), `cpu.cfs_quota_us` and `cpu.cfs_period_us` (v1).
    """
    limits = [limit for folder in _cgroup_folders() if (limit := _limit(folder)) is not None]
    return min(limits, default=None)


def _cgroup_folders() -> list[Path]:
    """The folders of this process's CPU control group and of those around it, for both versions."""
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        lines = []
    folders = [CGROUPS, CGROUPS / "cpu", CGROUPS / "cpu,cpuacct"]
    for line in lines:
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" or "cpu" in controllers.split(","):
            # Inside a container the path may be the host's and not exist here: the mount itself is then the group.
            for mount in [CGROUPS] if number == "0" else [CGROUPS / "cpu", CGROUPS / controllers]:
                group = mount / path.lstrip("/")
                folders += [group, *(parent for parent in group.parents if mount in parent.parents)]
    return list(dict.fromkeys(folders))


def _limit(folder: Path) -> float | None:
    for read in (_limit_v2, _limit_v1):
        try:
            limit = read(folder)
        except (OSError, ValueError, ZeroDivisionError):
            continue
        if limit > 0:
            return limit
    return None


def _limit_v2(folder: Path) -> float:
    quota, period = (folder / "cpu.max").read_text().split()
    return float(Fraction(int(quota), int(period)))


def _limit_v1(folder: Path) -> float:
    quota, period = ((folder / name).read_text() for name in ("cpu.cfs_quota_us", "cpu.cfs_period_us"))
    return float(Fraction(int(quota), int(period)))
