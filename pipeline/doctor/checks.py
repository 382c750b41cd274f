"""What this machine can do: one function a question, each gives a Finding and never raises for what is missing."""

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
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

from common.environment import CGROUPS, ROOT, available_cores, cpu_quota

INSTALL = "pip install -r requirements.txt (or: make setup)"
PYTHONS = ((3, 10), (3, 12))
SMALLEST_MEMORY, SMALLEST_DISK = 2 * 2**30, 2**30
DRIVER_VERSION = Path("/proc/driver/nvidia/version")


@dataclass(frozen=True)
class Finding:
    """The answer of one check.

    Attributes:
        name: what was looked at.
        state: good; absent (training works without, perhaps slower); broken (training does not work here).
        found: what there is.
        mend: what to do about it, empty for good.
    """

    name: str
    state: Literal["good", "absent", "broken"]
    found: str
    mend: str = ""


def check_python() -> Finding:
    found = f"{sys.version_info[0]}.{sys.version_info[1]}.{sys.version_info[2]} at {sys.executable}"
    if PYTHONS[0] <= sys.version_info[:2] <= PYTHONS[1]:
        return Finding("Python", "good", found)
    return Finding("Python", "broken", found, "3.10, 3.11 or 3.12 is needed: make setup PYTHON=python3.11")


def check_packages() -> Finding:
    """Compares what is installed with requirements.txt."""
    wanted = dict(re.findall(r"^([\w.-]+)==(\S+)", (ROOT / "requirements.txt").read_text(), re.MULTILINE))
    missing, other = [], []
    for name, pinned in wanted.items():
        try:
            installed = version(name)
        except PackageNotFoundError:
            missing.append(name)
        else:
            if installed.partition("+")[0] != pinned:
                other.append(f"{name} {installed} (tested: {pinned})")
    if missing:
        return Finding("packages", "broken", f"missing: {', '.join(missing)}", INSTALL)
    if other:
        return Finding("packages", "absent", f"other versions than tested: {', '.join(other)}", INSTALL)
    return Finding("packages", "good", f"{len(wanted)} of {len(wanted)} as in requirements.txt")


def check_gpu() -> Finding:
    """Whether PyTorch can compute on a GPU, and if a GPU is there but PyTorch cannot, why."""
    torch = importlib.import_module("torch")
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if count:
        names = sorted({torch.cuda.get_device_name(i) for i in range(count)})
        memory = min(torch.cuda.get_device_properties(i).total_memory for i in range(count))
        return Finding("GPU", "good", f"{count} x {', '.join(names)}, {gib(memory)} each")
    if torch.version.cuda is None:
        return Finding("GPU", "absent", f"this PyTorch ({torch.__version__}) is built for CPUs only", INSTALL)
    if not driver_release():
        return Finding("GPU", "absent", "none: everything runs on the CPU")
    reason = str(said[0].message).splitlines()[0] if said else "CUDA does not start"
    return Finding(
        "GPU",
        "absent",
        f"an NVIDIA driver is loaded, but PyTorch sees no GPU: {reason}",
        "give the process its GPUs (docker run --gpus all; SLURM --gpus; CUDA_VISIBLE_DEVICES must not be empty), "
        f"or update the driver to one for CUDA {torch.version.cuda}",
    )


def check_driver() -> Finding:
    release = driver_release()
    if not release:
        return Finding(
            "NVIDIA driver", "absent", "none", "for a GPU: the driver belongs on the host, not in a container"
        )
    return Finding("NVIDIA driver", "good", release)


def check_nvdec() -> Finding:
    """Whether the GPU's video decoder can be loaded and decodes VP9, for data.vp9_decoder=nvdec."""
    if not _cuda_works():
        return Finding("NVDEC", "absent", "no GPU")
    try:
        ctypes.CDLL("libnvcuvid.so.1")
    except OSError:
        return Finding(
            "NVDEC",
            "absent",
            "libnvcuvid.so.1 cannot be loaded; only data.vp9_decoder=nvdec needs it",
            "in a container: NVIDIA_DRIVER_CAPABILITIES=compute,utility,video; on a host: install the driver's decode "
            "library (Debian, Ubuntu: libnvidia-decode-*)",
        )
    from pipeline.load.dali_probe import decode_with_dali

    try:
        decode_with_dali("vp9", gpu=True)
    except RuntimeError as error:
        return Finding("NVDEC", "absent", f"does not decode VP9: {_first_line(error)}", "leave data.vp9_decoder=cpu")
    return Finding("NVDEC", "good", "decodes VP9, for data.vp9_decoder=nvdec")


def check_dali() -> Finding:
    """Decodes a small video with DALI on the CPU, in both formats that pipeline.prepare stores."""
    dali = importlib.import_module("nvidia.dali")
    from pipeline.load.dali_probe import decode_with_dali

    for codec in ("vp9", "jpeg"):
        try:
            decode_with_dali(codec, gpu=False)
        except RuntimeError as error:
            return Finding(
                "DALI", "broken", f"{dali.__version__} does not decode {codec}: {_first_line(error)}", INSTALL
            )
    return Finding("DALI", "good", f"{dali.__version__}, decodes VP9 and JPEG on the CPU")


def check_faiss() -> Finding:
    # get_num_gpus first: faiss.StandardGpuResources() without a GPU ends the process.
    faiss = importlib.import_module("faiss")
    gpus = faiss.get_num_gpus() if hasattr(faiss, "get_num_gpus") else 0
    if gpus or not _cuda_works():
        return Finding("FAISS", "good", f"{faiss.__version__}, {f'{gpus} GPU(s)' if gpus else 'on the CPU'}")
    return Finding("FAISS", "absent", f"{faiss.__version__} on the CPU, though there is a GPU", "pip install faiss-gpu")


def check_distributed() -> Finding:
    dist = importlib.import_module("torch.distributed")
    if not (dist.is_available() and dist.is_gloo_available()):
        return Finding("processes", "broken", "this PyTorch has no gloo", INSTALL)
    if _cuda_works() and not dist.is_nccl_available():
        return Finding("processes", "absent", "gloo, but no NCCL: one GPU works, several do not", INSTALL)
    return Finding("processes", "good", f"gloo{' and NCCL' if dist.is_nccl_available() else ''}")


def check_decord() -> Finding:
    decord = importlib.import_module("decord")
    return Finding("decord", "good", f"{decord.__version__} (data.loader=decord, raw videos)")


def check_pyav() -> Finding:
    """Whether PyAV's FFmpeg can encode what pipeline.prepare stores."""
    av = importlib.import_module("av")
    lacking = [name for name in ("libvpx-vp9", "mjpeg") if name not in av.codecs_available]
    if lacking:
        return Finding("PyAV", "broken", f"{av.__version__} without {', '.join(lacking)}", INSTALL)
    return Finding("PyAV", "good", f"{av.__version__}, FFmpeg encodes VP9 and JPEG")


def check_cores() -> Finding:
    quota = cpu_quota()
    limit = "" if quota is None else f", by the container's CPU limit of {quota:g}"
    return Finding("cores", "good", f"{available_cores()} of {os.cpu_count()}{limit}")


def check_memory() -> Finding:
    free = free_memory()
    if free < SMALLEST_MEMORY:
        return Finding("memory", "broken", f"{gib(free)} free", f"{gib(SMALLEST_MEMORY)} are needed for a small run")
    return Finding("memory", "good", f"{gib(free)} free")


def check_disk() -> Finding:
    free = shutil.disk_usage(Path.cwd()).free
    if free < SMALLEST_DISK:
        return Finding(
            "disk", "broken", f"{gib(free)} free in {Path.cwd()}", "free some, or give run_dir=... on another disk"
        )
    return Finding("disk", "good", f"{gib(free)} free in {Path.cwd()}")


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
    """Release of the loaded NVIDIA driver, such as 580.65.06; empty without one."""
    try:
        found = re.search(r"Kernel Module(?: for \S+)?\s+(\d+(?:\.\d+)+)", DRIVER_VERSION.read_text())
    except OSError:
        return ""
    return found.group(1) if found else "unknown release"


def free_memory() -> int:
    """Bytes that the machine and the container (cgroup v2) still give."""
    found = re.search(r"MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text())
    machine = int(found.group(1)) * 1024 if found else sys.maxsize
    try:
        limit = int((CGROUPS / "memory.max").read_text())
        return min(machine, limit - int((CGROUPS / "memory.current").read_text()))
    except (OSError, ValueError):
        return machine


def gib(count: int) -> str:
    """Bytes as text: 139.8 GiB."""
    return f"{count / 2**30:.1f} GiB"


def _cuda_works() -> bool:
    torch = importlib.import_module("torch")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.cuda.is_available()


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
