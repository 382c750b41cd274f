"""The number of cores that a process may use (by affinity and CPU quota), and the environment that is recorded."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from common import environment as module
from common.environment import ROOT, available_cores, cpu_quota, environment


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Simulates a machine with 64 cores; returns a function that sets the path and files of its control groups."""
    monkeypatch.setattr(module, "CGROUPS", tmp_path / "cgroup")
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(64)))
    real_read = Path.read_text

    def pretend(membership: str, files: dict[str, str]) -> None:
        for name, text in files.items():
            path = tmp_path / "cgroup" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

        def read(path: Path, *arguments: object, **options: object) -> str:
            return membership if str(path) == "/proc/self/cgroup" else real_read(path, *arguments, **options)

        monkeypatch.setattr(Path, "read_text", read)

    return pretend


V1 = "5:cpu,cpuacct:/job\n2:memory:/job\n"


@pytest.mark.parametrize(
    ("membership", "files", "quota"),
    [
        ("0::/\n", {"cpu.max": "150000 100000\n"}, 1.5),
        ("0::/\n", {"cpu.max": "max 100000\n"}, None),
        ("0::/user/job\n", {"user/job/cpu.max": "max 100000\n", "user/cpu.max": "400000 100000\n"}, 4.0),
        ("0::/user/job\n", {"user/job/cpu.max": "200000 100000\n", "user/cpu.max": "400000 100000\n"}, 2.0),
        # In a container that sees the host's path, the mount point is the container's own group.
        ("0::/kubepods/pod1\n", {"cpu.max": "300000 100000\n"}, 3.0),
        (V1, {"cpu,cpuacct/job/cpu.cfs_quota_us": "250000\n", "cpu,cpuacct/job/cpu.cfs_period_us": "100000\n"}, 2.5),
        (V1, {"cpu/job/cpu.cfs_quota_us": "-1\n", "cpu/job/cpu.cfs_period_us": "100000\n"}, None),
        (V1, {"cpu/cpu.cfs_quota_us": "50000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 0.5),
        ("0::/\n", {"cpu.max": "nonsense"}, None),
        ("0::/\n", {"cpu.max": "100000 0\n"}, None),
        ("", {}, None),
    ],
)
def test_the_quota_is_the_smallest_of_the_group_and_its_ancestors(machine, membership, files, quota) -> None:
    machine(membership, files)
    assert cpu_quota() == quota
    expected = 64 if quota is None else max(1, int(quota))
    assert available_cores() == expected
    assert available_cores(processes=2) == max(1, expected // 2)


@pytest.mark.skipif(shutil.which("taskset") is None, reason="taskset is not installed")
def test_a_process_bound_to_one_core_computes_with_one_thread() -> None:
    code = (
        "import torch; from common.environment import available_cores; from training.distributed import start;"
        "from pipeline.load.clip_loader import decode_threads;"
        "start('cpu'); print(available_cores(), torch.get_num_threads(), decode_threads(0))"
    )
    core = str(min(os.sched_getaffinity(0)))
    done = subprocess.run(
        ["taskset", "-c", core, sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["1", "1", "1"]


def test_the_environment_lists_cores_and_versions() -> None:
    found = environment("numpy", "a-package-that-does-not-exist")
    assert found["cores"] == available_cores()
    assert set(found["versions"]) == {"python", "torch", "numpy", "a-package-that-does-not-exist"}
    assert found["versions"]["a-package-that-does-not-exist"] is None
