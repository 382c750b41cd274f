"""The doctor's checks: one function per check, each returning a `Finding`."""

from __future__ import annotations

import ctypes
import importlib
import os
import re
import shutil
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from common.environment import CGROUPS, ROOT, available_cores, cpu_quota, installed_version

INSTALL = "pip install -r requirements.txt (or: make setup)"
PYTHONS = ((3, 11), (3, 13))
"""Oldest and newest supported version of Python."""
SMALLEST_MEMORY, SMALLEST_DISK = 2 * 2**30, 2**30
"""Memory and disk space that a small run needs, in bytes."""
DRIVER_VERSION = Path("/proc/driver/nvidia/version")
"""File in which the NVIDIA driver states its version while it is loaded."""


@dataclass(frozen=True)
class Finding:
    """The result of one check.

    Attributes:
        name: what was checked.
        state: ok; warning (training works, perhaps slower or without a feature); error (training does not work here).
        found: what was found.
        fix: what to do about it; may be empty.
    """

    name: str
    state: Literal["ok", "warning", "error"]
    found: str
    fix: str = ""


def check_python() -> Finding:
    """Whether this version of Python is supported."""
    found = f"{sys.version_info[0]}.{sys.version_info[1]}.{sys.version_info[2]} at {sys.executable}"
    if PYTHONS[0] <= sys.version_info[:2] <= PYTHONS[1]:
        return Finding("Python", "ok", found)
    return Finding("Python", "error", found, "3.11, 3.12 or 3.13 is needed: make setup PYTHON=python3.11")


def check_packages() -> Finding:
    """Whether the installed packages have the versions in requirements.txt, or in its variant for CUDA 12."""
    cuda12 = bool(installed_version("nvidia-dali-cuda120")) and not installed_version("nvidia-dali-cuda130")
    listed = ROOT / ("requirements-cuda12.txt" if cuda12 else "requirements.txt")
    wanted = dict(re.findall(r"^([\w.-]+)==(\S+)", listed.read_text(encoding="utf-8"), re.MULTILINE))
    missing, other = [], []
    for name, pinned in wanted.items():
        # faiss-cpu is a valid substitute on a machine without a GPU.
        installed = installed_version(name) or (installed_version("faiss-cpu") if name == "faiss-gpu" else None)
        if installed is None:
            missing.append(name)
        elif installed.partition("+")[0] != pinned:
            other.append(f"{name} {installed} (tested: {pinned})")
    if missing:
        return Finding("packages", "error", f"missing: {', '.join(missing)}", INSTALL)
    if other:
        return Finding("packages", "warning", f"versions differ from the tested ones: {', '.join(other)}", INSTALL)
    return Finding("packages", "ok", f"all {len(wanted)} have the versions in {listed.name}")


def check_gpu() -> Finding:
    """Whether PyTorch can use a GPU; if not although a driver is loaded, the finding says why."""
    torch = importlib.import_module("torch")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if count:
        names = sorted({torch.cuda.get_device_name(i) for i in range(count)})
        memory = min(torch.cuda.get_device_properties(i).total_memory for i in range(count))
        return Finding("GPU", "ok", f"{count} x {', '.join(names)}, {gib(memory)} each")
    if torch.version.cuda is None:
        return Finding("GPU", "warning", f"this PyTorch ({torch.__version__}) is built for CPUs only", INSTALL)
    if not driver_release():
        return Finding("GPU", "warning", "none: everything runs on the CPU")
    reason = str(caught[0].message).splitlines()[0] if caught else "CUDA cannot be initialised"
    return Finding(
        "GPU",
        "warning",
        f"an NVIDIA driver is loaded, but PyTorch sees no GPU: {reason}",
        "give the process its GPUs (docker run --gpus all; SLURM --gpus; CUDA_VISIBLE_DEVICES must not be empty), "
        f"or update the driver to one that supports CUDA {torch.version.cuda}",
    )


def check_driver() -> Finding:
    """Whether an NVIDIA driver is loaded, and which release."""
    release = driver_release()
    if not release:
        return Finding(
            "NVIDIA driver", "warning", "none", "to use a GPU, install the driver on the host, not in a container"
        )
    return Finding("NVIDIA driver", "ok", release)


def check_nvdec() -> Finding:
    """Whether the GPU's video decoder (NVDEC) loads and decodes VP9, as data.vp9_decoder=nvdec needs."""
    if not _cuda_works():
        return Finding("NVDEC", "warning", "no GPU")
    try:
        ctypes.CDLL("libnvcuvid.so.1")
    except OSError:
        return Finding(
            "NVDEC",
            "warning",
            "libnvcuvid.so.1 cannot be loaded; only data.vp9_decoder=nvdec needs it",
            "in a container, set NVIDIA_DRIVER_CAPABILITIES=compute,utility,video; on a host, install the driver's "
            "decode library (Debian, Ubuntu: libnvidia-decode-*)",
        )
    from pipeline.load.dali_probe import decode_with_dali

    try:
        decode_with_dali("vp9", gpu=True)
    except RuntimeError as error:
        return Finding("NVDEC", "warning", f"does not decode VP9: {_first_line(error)}", "keep data.vp9_decoder=cpu")
    return Finding("NVDEC", "ok", "decodes VP9 (data.vp9_decoder=nvdec)")


def check_dali() -> Finding:
    """Whether DALI decodes a small video on the CPU in each format that pipeline.prepare stores."""
    dali = importlib.import_module("nvidia.dali")
    from pipeline.load.dali_probe import decode_with_dali

    for codec in ("vp9", "jpeg"):
        try:
            decode_with_dali(codec, gpu=False)
        except RuntimeError as error:
            return Finding(
                "DALI", "error", f"{dali.__version__} does not decode {codec}: {_first_line(error)}", INSTALL
            )
    return Finding("DALI", "ok", f"{dali.__version__}, decodes VP9 and JPEG on the CPU")


def check_faiss() -> Finding:
    """Whether FAISS can be imported, and uses the GPU if there is one."""
    # Only get_num_gpus is safe to call: faiss.StandardGpuResources() ends the process where there is no GPU.
    faiss = importlib.import_module("faiss")
    gpus = faiss.get_num_gpus() if hasattr(faiss, "get_num_gpus") else 0
    if gpus or not _cuda_works():
        return Finding("FAISS", "ok", f"{faiss.__version__}, {f'{gpus} GPU(s)' if gpus else 'on the CPU'}")
    return Finding(
        "FAISS", "warning", f"{faiss.__version__} on the CPU, though there is a GPU", "pip install faiss-gpu"
    )


def check_distributed() -> Finding:
    """Whether PyTorch has the communication backends of a run with several processes: gloo, and NCCL for GPUs."""
    dist = importlib.import_module("torch.distributed")
    if not (dist.is_available() and dist.is_gloo_available()):
        return Finding("processes", "error", "this PyTorch has no gloo backend", INSTALL)
    if _cuda_works() and not dist.is_nccl_available():
        return Finding(
            "processes", "warning", "gloo but no NCCL: training works on one GPU, but not on several", INSTALL
        )
    return Finding("processes", "ok", f"gloo{' and NCCL' if dist.is_nccl_available() else ''}")


def check_decord() -> Finding:
    """Whether decord can be imported, which only data.loader=decord needs."""
    decord = importlib.import_module("decord")
    return Finding("decord", "ok", f"{decord.__version__} (data.loader=decord, raw videos)")


def check_pyav() -> Finding:
    """Whether PyAV's FFmpeg can encode the formats that pipeline.prepare stores."""
    av = importlib.import_module("av")
    missing = [name for name in ("libvpx-vp9", "mjpeg") if name not in av.codecs_available]
    if missing:
        return Finding("PyAV", "error", f"{av.__version__} without {', '.join(missing)}", INSTALL)
    return Finding("PyAV", "ok", f"{av.__version__}, FFmpeg encodes VP9 and JPEG")


def check_cores() -> Finding:
    """How many CPU cores this process may use; never an error."""
    quota = cpu_quota()
    limit = "" if quota is None else f", because of the container's CPU limit of {quota:g}"
    return Finding("cores", "ok", f"{available_cores()} of {os.cpu_count()}{limit}")


def check_memory() -> Finding:
    """Whether the free memory is enough for a small run."""
    free = free_memory()
    if free < SMALLEST_MEMORY:
        return Finding("memory", "error", f"{gib(free)} free", f"a small run needs {gib(SMALLEST_MEMORY)}")
    return Finding("memory", "ok", f"{gib(free)} free")


def check_disk() -> Finding:
    """Whether the disk of the current folder has enough free space for a small run."""
    free = shutil.disk_usage(Path.cwd()).free
    if free < SMALLEST_DISK:
        return Finding(
            "disk",
            "error",
            f"{gib(free)} free in {Path.cwd()}",
            f"a small run needs {gib(SMALLEST_DISK)}: free some space, or set run_dir=... to a folder on another disk",
        )
    return Finding("disk", "ok", f"{gib(free)} free in {Path.cwd()}")


CHECKS: list[Callable[[], Finding]] = [
    check_python,
    check_packages,
    check_gpu,
    check_driver,
    check_nvdec,
    check_dali,
    check_faiss,
    check_distributed,
    check_decord,
    check_pyav,
    check_cores,
    check_memory,
    check_disk,
]


def driver_release() -> str:
    """Returns the release of the loaded NVIDIA driver, such as 580.65.06; empty if no driver is loaded."""
    try:
        found = re.search(r"Kernel Module(?: for \S+)?\s+(\d+(?:\.\d+)+)", DRIVER_VERSION.read_text())
    except OSError:
        return ""
    return found.group(1) if found else "unknown release"


def free_memory() -> int:
    """Returns the free memory in bytes: that of the machine, or of the container (cgroup v2) if it is less."""
    found = re.search(r"MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text())
    machine = int(found.group(1)) * 1024 if found else sys.maxsize
    try:
        limit = int((CGROUPS / "memory.max").read_text())
        return min(machine, limit - int((CGROUPS / "memory.current").read_text()))
    except (OSError, ValueError):
        return machine


def gib(size: int) -> str:
    """Formats a number of bytes as, for example, 139.8 GiB."""
    return f"{size / 2**30:.1f} GiB"


def _cuda_works() -> bool:
    torch = importlib.import_module("torch")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.cuda.is_available()


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
