"""The doctor on machines that lack something, simulated."""

from __future__ import annotations

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
    """Puts other modules, files and libraries in place of this machine's."""

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


def test_a_machine_without_gpu_is_no_failure(machine, capsys, monkeypatch):
    torch = _torch()
    machine(torch=torch)
    findings = doctor.examine([checks.check_gpu, checks.check_driver, checks.check_nvdec])
    assert [finding.state for finding in findings] == ["absent"] * 3
    monkeypatch.setattr(doctor, "examine", lambda: findings)
    assert doctor.main([]) == 0
    assert "cpu, fp32" in capsys.readouterr().out


def test_the_number_of_gpus_becomes_the_number_of_processes(machine):
    _with_gpus(machine, 8)
    gpu = checks.check_gpu()
    assert gpu.found == "8 x NVIDIA H200, 139.0 GiB each"
    used = dict(doctor.what_is_used([gpu]))
    assert "--nproc_per_node=8" in used["start with"]
    assert used["between processes"] == "NCCL"
    assert used["video decoding"] == "JPEG on the GPU, VP9 on the CPU"


def test_a_loaded_driver_without_visible_gpu_is_explained(machine):
    machine(driver="525.10", torch=_torch())
    finding = checks.check_gpu()
    assert finding.state == "absent"
    assert "CUDA_VISIBLE_DEVICES" in finding.mend
    assert "CUDA 13.0" in finding.mend
    assert checks.check_driver().found == "525.10"


def test_a_cpu_build_of_pytorch_is_named(machine):
    machine(driver="580.65", torch=_torch(cuda=None))
    assert "built for CPUs only" in checks.check_gpu().found


def test_nvdec_missing_from_a_container_names_the_capability(machine, monkeypatch):
    _with_gpus(machine)

    def cannot_load(name):
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(checks.ctypes, "CDLL", cannot_load)
    finding = checks.check_nvdec()
    assert finding.state == "absent"
    assert "NVIDIA_DRIVER_CAPABILITIES=compute,utility,video" in finding.mend


@pytest.mark.parametrize(("error", "state"), [(None, "good"), (RuntimeError("\nno NVDEC engine\nmore"), "absent")])
def test_nvdec_counts_only_if_it_decodes(machine, monkeypatch, error, state):
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


def test_dali_is_tried_with_what_prepare_stores():
    assert checks.check_dali().state == "good"


def test_dali_that_cannot_decode_is_broken(monkeypatch):
    def decode(codec, *, gpu):
        raise RuntimeError(f"no decoder for {codec}")

    monkeypatch.setattr(dali_probe, "decode_with_dali", decode)
    finding = checks.check_dali()
    assert finding.state == "broken"
    assert "no decoder for vp9" in finding.found


def test_faiss_is_asked_for_its_gpus_before_anything_else(machine):
    faiss = SimpleNamespace(__version__="1.15.1", get_num_gpus=lambda: 0)
    _with_gpus(machine, faiss=faiss)
    finding = checks.check_faiss()
    assert finding.state == "absent"
    assert finding.mend == "pip install faiss-gpu"


@pytest.mark.parametrize(("gpus", "gloo", "nccl", "state"), [(0, False, True, "broken"), (2, True, False, "absent")])
def test_missing_process_backends(machine, gpus, gloo, nccl, state):
    torch = _torch(gpus=gpus, gloo=gloo, nccl=nccl)
    machine(torch=torch, **{"torch.distributed": torch})
    assert checks.check_distributed().state == state


def test_missing_packages_are_all_named(monkeypatch):
    def version(name):
        if name in ("decord", "av"):
            raise checks.PackageNotFoundError(name)
        return "0.0.1"

    monkeypatch.setattr(checks, "version", version)
    finding = checks.check_packages()
    assert finding.state == "broken"
    assert finding.found == "missing: decord, av"
    assert "requirements.txt" in finding.mend


def test_a_package_that_does_not_import_is_a_finding_of_its_own():
    def check_decord():
        raise ImportError("libavcodec.so.58: cannot open shared object file")

    (finding,) = doctor.examine([check_decord])
    assert finding.name == "decord"
    assert finding.state == "broken"
    assert "libavcodec.so.58" in finding.found
    assert finding.mend


@pytest.mark.parametrize("wrong", [(3, 9, 18), (3, 13, 0)])
def test_other_pythons_are_refused(monkeypatch, wrong):
    monkeypatch.setattr(checks.sys, "version_info", wrong)
    assert checks.check_python().state == "broken"


def test_a_container_limit_on_memory_is_seen(monkeypatch, tmp_path):
    (tmp_path / "memory.max").write_text(f"{2**30}\n")
    (tmp_path / "memory.current").write_text(f"{2**29}\n")
    monkeypatch.setattr(checks, "CGROUPS", tmp_path)
    assert checks.free_memory() == 2**29
    assert checks.check_memory().state == "broken"


def test_a_full_disk_is_broken(monkeypatch):
    monkeypatch.setattr(checks.shutil, "disk_usage", lambda path: SimpleNamespace(free=2**20))
    finding = checks.check_disk()
    assert finding.state == "broken"
    assert "run_dir" in finding.mend


def test_whatever_is_not_good_says_how_to_mend_it(monkeypatch, capsys):
    finding = Finding("DALI", "broken", "cannot [load]", "pip install -r requirements.txt")
    monkeypatch.setattr(doctor, "examine", lambda: [finding])
    assert doctor.main([]) == 1
    out, err = capsys.readouterr()
    assert "✗" in out
    assert "cannot [load]" in out
    assert "→ pip install -r requirements.txt" in out
    assert "DALI" in err


def test_without_rich_the_doctor_still_speaks(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "rich.console", None)
    monkeypatch.setattr(doctor, "examine", lambda: [Finding("rich", "broken", "missing", "install it")])
    assert doctor.main([]) == 1
    assert "✗  rich: missing  -> install it" in capsys.readouterr().out


def test_importing_the_doctor_needs_nothing_but_python():
    subprocess.run(
        [sys.executable, "-S", "-c", "import pipeline.doctor.__main__"],
        cwd=checks.ROOT,
        check=True,
        capture_output=True,
        timeout=60,
    )


def test_a_container_limit_on_cores_is_said(monkeypatch):
    monkeypatch.setattr(checks, "cpu_quota", lambda: 1.5)
    finding = checks.check_cores()
    assert finding.state == "good"
    assert "CPU limit of 1.5" in finding.found
