"""The requirement files agree, the lock holds what they ask for, and continuous integration fetches by commit."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, distribution
from itertools import combinations
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from uv import find_uv_bin

from pipeline.doctor.checks import PYTHONS
from training.tracking.trackers import TRACKERS

ROOT = Path(__file__).resolve().parents[2]
LISTS = sorted(path.name for path in ROOT.glob("requirements*.txt"))
LOCK = (ROOT / "requirements.lock").read_text()
TORCH = {"torch", "torchvision", "torchaudio"}


def pins(text: str) -> dict[str, set[str]]:
    """The versions of each package; a lock names several where it depends on the Python."""
    found: dict[str, set[str]] = {}
    for name, version in re.findall(r"^([A-Za-z][\w.-]*)==([^\s;]+)", text, re.MULTILINE):
        found.setdefault(canonicalize_name(name), set()).add(version)
    return found


def listed(name: str) -> dict[str, set[str]]:
    return pins((ROOT / name).read_text())


def test_the_lock_pins_what_is_listed():
    locked = pins(LOCK)
    assert {name: locked.get(name) for name in listed("requirements.txt")} == listed("requirements.txt")


def test_every_package_of_the_lock_has_a_hash():
    entries = re.split(r"^(?=[A-Za-z])", LOCK, flags=re.MULTILINE)[1:]
    assert len(entries) >= len(listed("requirements.txt"))
    for entry in entries:
        assert re.search(r"--hash=sha256:[0-9a-f]{64}\b", entry), entry.splitlines()[0]


def test_the_lock_holds_what_its_packages_need():
    """As far as they are installed here."""
    locked = pins(LOCK)
    for name in locked:
        try:
            here = distribution(name)
        except PackageNotFoundError:  # of another Python
            continue
        if here.version.partition("+")[0] not in locked[name]:
            continue
        for requirement in map(Requirement, here.requires or []):
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                versions = locked.get(canonicalize_name(requirement.name), set())
                assert any(map(requirement.specifier.contains, versions)), f"{name} needs {requirement}: make lock"


def test_lock_and_makefile_name_the_same_command():
    (command,) = re.findall(r"^\s+\$\(BIN\)/(uv pip compile .*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert f"#    {command.replace('--quiet ', '')}\n" in LOCK
    assert "--python-version {}.{} ".format(*PYTHONS[0]) in command


@pytest.mark.parametrize(("one", "other"), list(combinations(LISTS, 2)))
def test_lists_agree_on_what_they_share(one, other):
    first, second = listed(one), listed(other)
    shared = first.keys() & second.keys() - (TORCH if "requirements-cuda12.txt" in (one, other) else set())
    assert {name: first[name] for name in shared} == {name: second[name] for name in shared}


def test_the_cuda_12_list_differs_in_torch_and_dali_only():
    usual, older = listed("requirements.txt"), listed("requirements-cuda12.txt")
    assert usual.keys() ^ older.keys() == {"nvidia-dali-cuda130", "nvidia-dali-cuda120"}
    assert usual["nvidia-dali-cuda130"] == older["nvidia-dali-cuda120"]


def planned_installation(target, *arguments):
    """What uv says that it would install into an empty folder; skips the test where no package index can be reached."""
    # uv fetches only the part of a wheel with its requirements; pip takes minutes.
    command = ["pip", "install", "--dry-run", "--only-binary=:all:", "--python", sys.executable]
    result = subprocess.run(
        [find_uv_bin(), *command, "--target", str(target), *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    if result.returncode and "error sending request" in result.stderr:
        pytest.skip("the package index cannot be reached")
    assert result.returncode == 0, result.stderr[-2000:]
    return result.stderr


def test_the_cuda_12_list_can_be_installed(tmp_path):
    said = planned_installation(tmp_path, "-r", "requirements-cuda12.txt")
    assert re.search(r"Would install \d+ packages", said)
    assert "nvidia-cudnn-cu12" in said
    assert "cu13" not in said


@pytest.mark.parametrize("tracker", sorted(TRACKERS))
def test_a_tracker_is_installed_next_to_the_listed_packages(tracker, tmp_path):
    """As its error message says, and without replacing any of them."""
    kind = TRACKERS[tracker]
    *options, name = kind.install.replace("-r ", "").split()
    assert name in LISTS
    assert kind.package.split("-")[0] in {package.split("-")[0] for package in listed(name)}
    assert not listed(name).keys() & listed("requirements.txt").keys()
    assert f"pip install {kind.install}" in (ROOT / name).read_text().splitlines()[0]
    lists = ["-r", name, *([] if options else ["-r", "requirements.txt"])]
    planned_installation(tmp_path, *options, *lists)


@pytest.mark.parametrize("driver", [True, False])
def test_setup_says_first_what_it_installs_and_that_there_is_no_gpu(tmp_path, driver):
    """With a pip that only writes down what it is asked for."""
    for name in ("Makefile", "requirements.lock"):
        shutil.copy(ROOT / name, tmp_path)
    stub = tmp_path / ".venv/bin/python"
    stub.parent.mkdir(parents=True)
    stub.write_text('#!/bin/sh\necho "asked for: $*"\n')
    stub.chmod(0o755)
    (tmp_path / "driver").write_text("")
    result = subprocess.run(
        ["make", "setup", f"PYTHON={sys.executable}", f"DRIVER={'driver' if driver else 'none'}"],
        cwd=tmp_path,
        env={**os.environ, "MAKEFLAGS": ""},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.returncode == 0, result.stderr
    before, asked, _ = result.stdout.partition("asked for: ")
    assert asked
    assert "install --disable-pip-version-check --quiet --require-hashes -r requirements.lock" in result.stdout
    assert "GB to download" in before
    assert ("run on the CPU" in before) is not driver


def test_the_makefile_takes_the_supported_pythons():
    assert "{} <= sys.version_info[:2] <= {}".format(*PYTHONS) in (ROOT / "Makefile").read_text()


def test_actions_are_pinned_by_commit():
    workflows = sorted((ROOT / ".github/workflows").glob("*.yml"))
    assert workflows
    for path in workflows:
        jobs = yaml.safe_load(path.read_text())["jobs"].values()
        for action in (step["uses"] for job in jobs for step in job["steps"] if "uses" in step):
            assert re.fullmatch(r"[\w./-]+@[0-9a-f]{40}", action), f"{path.name}: {action}"
