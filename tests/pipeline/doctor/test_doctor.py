"""The doctor on simulated machines, most of which lack something."""

from __future__ import annotations

import re
import subprocess
import sys
from types import SimpleNamespace

import pytest

from pipeline.doctor import __main__ as doctor
from pipeline.doctor import checks
from pipeline.doctor.checks import Finding
from pipeline.load import dali_probe


def _torch(*, gpus=0, cuda="13.0", gloo=True, nccl=True):
    properties = SimpleNamespace(total_memory=139 * 2**30)
    return SimpleNamespace(
        __version__="2.11.0",
        version=SimpleNamespace(cuda=cuda),
        cuda=SimpleNamespace(
            is_available=lambda: gpus > 0,
            device_count=lambda: gpus,
            get_device_name=lambda i: "NVIDIA H200",
            get_device_properties=lambda i: properties,
        ),
        is_available=lambda: True,
        is_gloo_available=lambda: gloo,
        is_nccl_available=lambda: nccl,
    )


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """Returns a function that simulates a machine with the given driver release and modules."""

    def build(*, driver="", **modules):
        real_import = checks.importlib.import_module
        monkeypatch.setattr(checks.importlib, "import_module", lambda name: modules.get(name) or real_import(name))
        monkeypatch.setattr(checks, "DRIVER_VERSION", tmp_path / "version")
        if driver:
            (tmp_path / "version").write_text(f"NVRM version: NVIDIA UNIX x86_64 Kernel Module  {driver}  Thu\n")

    return build


def _with_gpus(machine, count=1, **modules):
    torch = _torch(gpus=count)
    machine(driver="580.65.06", torch=torch, **{"torch.distributed": torch}, **modules)


def test_a_machine_without_a_gpu_is_not_an_error(machine, capsys, monkeypatch):
    torch = _torch()
    machine(torch=torch)
    findings = doctor.examine([checks.check_gpu, checks.check_driver, checks.check_nvdec])
    assert [finding.state for finding in findings] == ["warning"] * 3
    monkeypatch.setattr(doctor, "examine", lambda: findings)
    assert doctor.main([]) == 0
    assert "cpu, fp32" in capsys.readouterr().out


def test_the_number_of_gpus_becomes_the_number_of_processes(machine):
    _with_gpus(machine, 8)
    gpu = checks.check_gpu()
    assert gpu.found == "8 x NVIDIA H200, 139.0 GiB each"
    used = dict(doctor.choices([gpu]))
    assert "--nproc_per_node=8" in used["start with"]
    assert used["process communication"] == "NCCL"
    assert used["video decoding"] == "JPEG on the GPU, VP9 on the CPU"


def test_a_loaded_driver_without_a_visible_gpu_is_explained(machine):
    machine(driver="525.10", torch=_torch())
    finding = checks.check_gpu()
    assert finding.state == "warning"
    assert "CUDA_VISIBLE_DEVICES" in finding.fix
    assert "CUDA 13.0" in finding.fix
    assert checks.check_driver().found == "525.10"


def test_a_cpu_build_of_pytorch_is_reported(machine):
    machine(driver="580.65", torch=_torch(cuda=None))
    assert "built for CPUs only" in checks.check_gpu().found


def test_nvdec_missing_from_a_container_names_the_capability(machine, monkeypatch):
    _with_gpus(machine)

    def cannot_load(name):
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(checks.ctypes, "CDLL", cannot_load)
    finding = checks.check_nvdec()
    assert finding.state == "warning"
    assert "NVIDIA_DRIVER_CAPABILITIES=compute,utility,video" in finding.fix


@pytest.mark.parametrize(("error", "state"), [(None, "ok"), (RuntimeError("\nno NVDEC engine\nmore"), "warning")])
def test_nvdec_is_ok_only_if_it_decodes(machine, monkeypatch, error, state):
    _with_gpus(machine)
    monkeypatch.setattr(checks.ctypes, "CDLL", lambda name: None)

    def decode(codec, *, gpu):
        assert (codec, gpu) == ("vp9", True)
        if error:
            raise error

    monkeypatch.setattr(dali_probe, "decode_with_dali", decode)
    finding = checks.check_nvdec()
    assert finding.state == state
    assert not error or finding.found.endswith("no NVDEC engine")


def test_dali_decodes_the_formats_that_prepare_stores():
    assert checks.check_dali().state == "ok"


def test_dali_that_cannot_decode_is_an_error(monkeypatch):
    def decode(codec, *, gpu):
        raise RuntimeError(f"no decoder for {codec}")

    monkeypatch.setattr(dali_probe, "decode_with_dali", decode)
    finding = checks.check_dali()
    assert finding.state == "error"
    assert "no decoder for vp9" in finding.found


def test_faiss_without_gpu_support_is_a_warning_on_a_gpu(machine):
    faiss = SimpleNamespace(__version__="1.15.1", get_num_gpus=lambda: 0)
    _with_gpus(machine, faiss=faiss)
    finding = checks.check_faiss()
    assert finding.state == "warning"
    assert finding.fix == "pip install faiss-gpu"


@pytest.mark.parametrize(("gpus", "gloo", "nccl", "state"), [(0, False, True, "error"), (2, True, False, "warning")])
def test_missing_communication_backends_are_reported(machine, gpus, gloo, nccl, state):
    torch = _torch(gpus=gpus, gloo=gloo, nccl=nccl)
    machine(torch=torch, **{"torch.distributed": torch})
    assert checks.check_distributed().state == state


def test_all_missing_packages_are_listed(monkeypatch):
    monkeypatch.setattr(checks, "installed_version", lambda name: None if name in ("decord", "av") else "0.0.1")
    finding = checks.check_packages()
    assert finding.state == "error"
    assert finding.found == "missing: decord, av"
    assert "requirements.txt" in finding.fix


@pytest.mark.parametrize(
    ("instead", "listed"),
    [
        ({"faiss-gpu": "faiss-cpu"}, "requirements.txt"),
        ({"nvidia-dali-cuda130": "nvidia-dali-cuda120"}, "requirements-cuda12.txt"),
    ],
)
def test_packages_for_cpus_or_for_cuda_12_are_accepted(monkeypatch, instead, listed):
    versions = dict(re.findall(r"^([\w.-]+)==(\S+)", (checks.ROOT / listed).read_text(), re.MULTILINE))
    versions |= {new: versions[old] for old, new in instead.items() if old in versions}
    versions = {name: found for name, found in versions.items() if name not in instead}
    monkeypatch.setattr(checks, "installed_version", versions.get)
    finding = checks.check_packages()
    assert finding.state == "ok"
    assert listed in finding.found


def test_a_package_that_does_not_import_becomes_a_finding():
    def check_decord():
        raise ImportError("libavcodec.so.58: cannot open shared object file")

    (finding,) = doctor.examine([check_decord])
    assert finding.name == "decord"
    assert finding.state == "error"
    assert "libavcodec.so.58" in finding.found
    assert finding.fix


@pytest.mark.parametrize("wrong", [(3, 10, 13), (3, 14, 0)])
def test_unsupported_versions_of_python_are_errors(monkeypatch, wrong):
    monkeypatch.setattr(checks.sys, "version_info", wrong)
    assert checks.check_python().state == "error"


def test_the_memory_limit_of_a_container_counts(monkeypatch, tmp_path):
    (tmp_path / "memory.max").write_text(f"{2**30}\n")
    (tmp_path / "memory.current").write_text(f"{2**29}\n")
    monkeypatch.setattr(checks, "CGROUPS", tmp_path)
    assert checks.free_memory() == 2**29
    assert checks.check_memory().state == "error"


def test_a_full_disk_is_an_error(monkeypatch):
    monkeypatch.setattr(checks.shutil, "disk_usage", lambda path: SimpleNamespace(free=2**20))
    finding = checks.check_disk()
    assert finding.state == "error"
    assert "run_dir" in finding.fix


def test_an_error_is_printed_with_its_fix(monkeypatch, capsys):
    finding = Finding("DALI", "error", "cannot [load]", "pip install -r requirements.txt")
    monkeypatch.setattr(doctor, "examine", lambda: [finding])
    assert doctor.main([]) == 1
    out, err = capsys.readouterr()
    assert "✗" in out
    assert "cannot [load]" in out
    assert "→ pip install -r requirements.txt" in out
    assert "DALI" in err


def test_the_doctor_prints_plain_text_without_rich(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "rich.console", None)
    monkeypatch.setattr(doctor, "examine", lambda: [Finding("rich", "error", "missing", "install it")])
    assert doctor.main([]) == 1
    assert "✗  rich: missing  -> install it" in capsys.readouterr().out


def test_importing_the_doctor_needs_only_the_standard_library():
    subprocess.run(
        [sys.executable, "-S", "-c", "import pipeline.doctor.__main__"],
        cwd=checks.ROOT,
        check=True,
        capture_output=True,
        timeout=60,
    )


def test_the_core_limit_of_a_container_is_shown(monkeypatch):
    monkeypatch.setattr(checks, "cpu_quota", lambda: 1.5)
    finding = checks.check_cores()
    assert finding.state == "ok"
    assert "CPU limit of 1.5" in finding.found
