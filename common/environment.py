"""The environment of a process: package versions, git commit, processor, and the cores that the process may use."""

from __future__ import annotations

import math
import os
import platform
import subprocess
import sys
from fractions import Fraction
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
"""Root folder of the repository."""

CGROUPS = Path("/sys/fs/cgroup")
"""Folder where Linux mounts control groups."""

PACKAGES = ("torch", "torchvision", "torchaudio", "nvidia-dali-cuda130", "faiss-gpu", "numpy")
"""Packages whose versions may change the numeric results of a run."""


class MissingPackage(RuntimeError):
    """An optional package is not installed; the message names the command that installs it."""


def environment(*packages: str) -> dict[str, Any]:
    """Returns command, commit, hardware and versions, to be saved with a result; the keys are always the same.

    Args:
        packages: packages whose versions are recorded, in addition to Python and torch (default: `PACKAGES`).
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
    """Returns the version of a package; None if it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def missing_packages(*names: str) -> list[str]:
    """Returns those of the names that cannot be imported; imports none of them.

    Args:
        names: names to import. A distribution of another name may provide them, as onnxruntime-gpu does onnxruntime.
    """
    return [name for name in names if find_spec(name) is None]


def git(*arguments: str) -> str:
    """Returns the output of a git command in this repository; empty without git or outside a repository."""
    try:
        result = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return result.stdout.strip()


def processor() -> str:
    """Returns the name of the CPU."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor()


def available_cores(*, processes: int = 1) -> int:
    """Returns the number of CPU cores that this process may use, at least 1.

    It is the number of cores in the affinity mask (set by taskset, cpusets or bound SLURM tasks), or the CPU quota of
    the control group (set by containers) if that is lower.

    Args:
        processes: number of processes on this machine that share these cores equally.
    """
    cores = len(os.sched_getaffinity(0))
    quota = cpu_quota()
    if quota is not None:
        cores = min(cores, max(1, math.floor(quota)))
    return max(1, cores // processes)


def cpu_quota() -> float | None:
    """Returns the CPU quota of this process in cores (CPU seconds per second); None without a quota.

    Each control group from the process's own to the root may set a quota; the smallest applies. Both versions of
    cgroups are read: `cpu.max` (v2), and `cpu.cfs_quota_us` with `cpu.cfs_period_us` (v1).
    """
    quotas = [quota for folder in _cgroup_folders() if (quota := _quota(folder)) is not None]
    return min(quotas, default=None)


def _cgroup_folders() -> list[Path]:
    """Folders of this process's CPU control group and its ancestors, for both versions of control groups."""
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        lines = []
    folders = [CGROUPS, CGROUPS / "cpu", CGROUPS / "cpu,cpuacct"]
    for line in lines:
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" or "cpu" in controllers.split(","):
            # In a container the path may be the host's and not exist; the group is then the mount point itself.
            for mount in [CGROUPS] if number == "0" else [CGROUPS / "cpu", CGROUPS / controllers]:
                group = mount / path.lstrip("/")
                folders += [group, *(parent for parent in group.parents if mount in parent.parents)]
    return list(dict.fromkeys(folders))


def _quota(folder: Path) -> float | None:
    for read in (_quota_v2, _quota_v1):
        try:
            quota = read(folder)
        except (OSError, ValueError, ZeroDivisionError):
            continue
        if quota > 0:
            return quota
    return None


def _quota_v2(folder: Path) -> float:
    quota, period = (folder / "cpu.max").read_text().split()
    return float(Fraction(int(quota), int(period)))


def _quota_v1(folder: Path) -> float:
    quota, period = ((folder / name).read_text() for name in ("cpu.cfs_quota_us", "cpu.cfs_period_us"))
    return float(Fraction(int(quota), int(period)))
