"""The Dockerfile is linted and keeps what it promises, as far as that shows without building it."""

from __future__ import annotations

import ast
import io
import re
import runpy
import shutil
import subprocess
import sys
import sysconfig
import tomllib
from pathlib import Path

import pytest
from dockerfile_parse import DockerfileParser

from pipeline.doctor.checks import PYTHONS

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "Dockerfile").read_text()
IGNORED = (ROOT / ".dockerignore").read_text().splitlines()
SENT = [line.removeprefix("!/") for line in IGNORED if line.startswith("!")]
"""The files and folders that a build gets to see."""


def stages() -> dict[str, list[tuple[str, str]]]:
    """The instructions of each stage, from its FROM on."""
    found: dict[str, list[tuple[str, str]]] = {}
    for line in DockerfileParser(fileobj=io.BytesIO(TEXT.encode())).structure:
        if line["instruction"] == "FROM":
            current = found.setdefault(line["value"].split(" AS ")[1], [])
        if line["instruction"] != "COMMENT":
            current.append((line["instruction"], line["value"]))
    return found


STAGES = stages()
IMAGES = ("cpu", "gpu")


def whole(name: str) -> list[tuple[str, str]]:
    """The instructions of a stage after those of the stages that it begins with."""
    base = STAGES[name][0][1].split()[0]
    return [*(whole(base) if base in STAGES else []), *STAGES[name]]


def test_hadolint_has_no_complaint():
    hadolint = Path(sysconfig.get_path("scripts")) / "hadolint"
    done = subprocess.run([hadolint, "--no-color", ROOT / "Dockerfile"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout
    assert not done.stdout


def test_the_one_image_of_others_is_pinned_to_a_supported_python():
    (base,) = {lines[0][1].split()[0] for lines in STAGES.values()} - STAGES.keys()
    name, major, minor = re.fullmatch(r"(python):(\d+)\.(\d+)\.\d+-slim-[a-z]+", base).groups()
    assert name == "python"
    assert PYTHONS[0] <= (int(major), int(minor)) <= PYTHONS[1]


@pytest.mark.parametrize("image", IMAGES)
def test_an_image_runs_the_commands_as_another_user_than_root(image):
    lines = whole(image)
    last = dict(lines)
    assert last["USER"] == "1000:1000"
    assert lines[-1][0] == "USER"
    assert last["ENTRYPOINT"] == '["./cmacc"]'
    assert last["CMD"] == '["help"]'
    assert last["STOPSIGNAL"] == "SIGTERM"
    assert last["WORKDIR"] == "/cm-acc"
    made = " ".join(value for name, value in lines if name == "RUN")
    assert "chown 1000:1000 /cm-acc/data /cm-acc/runs" in made
    assert last["VOLUME"] == '["/cm-acc/data", "/cm-acc/runs"]'


@pytest.mark.parametrize("image", IMAGES)
def test_an_image_holds_no_tool_that_builds_and_no_cache(image):
    lines = whole(image)
    run = " ".join(value for name, value in lines if name == "RUN")
    assert not re.search(r"\b(apt|pip|curl|wget|gcc|make)", run)
    copied = [value for name, value in lines if name in ("COPY", "ADD")]
    assert copied == [f"--from=packages-{image} /opt/venv /opt/venv", "--from=code /code /cm-acc"]
    for command in re.findall(r"pip .*?(?=&&|$)", TEXT.replace("\\\n", ""), re.MULTILINE):
        if " install " in command:
            assert "--no-cache-dir" in command
            assert "--only-binary :all:" in command, "the stages have no compiler"


def test_every_file_that_a_build_copies_exists_and_is_sent():
    copied = [value.split()[:-1] for lines in STAGES.values() for name, value in lines if name == "COPY"]
    names = {name for names in copied if not names[0].startswith("--from") for name in names} - {"."}
    assert names == {"requirements.txt", "requirements.lock"}
    assert names <= set(SENT)
    assert all((ROOT / name).exists() for name in SENT)
    assert IGNORED[1] == "*", "all that is not listed stays out: data, runs, .git, .venv"
    earlier = list(STAGES)
    for name, lines in STAGES.items():
        for source in re.findall(r"--from=(\S+)", " ".join(value for _, value in lines)):
            assert earlier.index(source) < earlier.index(name)


def test_an_image_holds_all_code():
    layers = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["root_packages"]
    modules = {module for module, _ in runpy.run_path(str(ROOT / "cmacc"))["COMMANDS"].values()}
    needed = {"cmacc", "configs", *layers, *(f"{m}.py" if "." not in m else m.partition(".")[0] for m in modules)}
    packages = {path.name for path in ROOT.iterdir() if (path / "__init__.py").exists()}
    assert needed | packages <= set(SENT)


def test_what_is_sent_imports_nothing_that_is_not(tmp_path):
    """In a copy of what an image holds, ./cmacc starts, and every import of our own code has its module."""
    for name in SENT:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, tmp_path / name)
    done = subprocess.run([sys.executable, "cmacc", "help"], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "train" in done.stdout
    own = {path.stem for path in ROOT.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()} | {"tests"}
    for path in tmp_path.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            modules = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            modules += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            for module in modules:
                top = module.partition(".")[0]
                assert top not in own or (tmp_path / top).exists() or (tmp_path / f"{top}.py").exists(), (path, module)


def test_the_packages_of_the_cpu_image_are_those_of_the_documented_installation():
    page = (ROOT / "docs" / "running.md").read_text()
    assert re.search(r"faiss-cpu==\S+", TEXT)[0] == re.search(r"faiss-cpu==\S+", page)[0]
    index = "https://download.pytorch.org/whl/cpu"
    assert index in TEXT
    assert index in page
    pattern = re.search(r"grep -vE '(\S+)'", TEXT)[1]
    assert f"grep -vE '{pattern}' requirements.txt" in page
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    others = [line for line in lines if not re.match(pattern, line)]
    torch = [line for line in lines if line.startswith("torch")]
    assert len(torch) == 3
    assert {*others, *torch} == {line for line in lines if not line.startswith(("#", "faiss"))}


def test_the_targets_and_options_that_the_page_names_exist():
    page = (ROOT / "docs" / "running.md").read_text()
    assert set(re.findall(r"--target (\w+)", page)) == set(IMAGES)
    mounts = re.findall(r"--volume \S+:(/\S+)", page)
    assert mounts
    assert all(mount.startswith(("/cm-acc/data", "/cm-acc/runs", "/videos")) for mount in mounts)
