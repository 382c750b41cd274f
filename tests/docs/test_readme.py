"""The README's shell blocks, run as printed in a copy of the repository."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.demo.corpus import make_demo

ROOT = Path(__file__).resolve().parents[2]
BLOCKS = [block.strip() for block in re.findall(r"```(?:ba)?sh\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)]
PYTHON = f'#!/bin/sh\nexec "{sys.executable}" '


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A copy of the repository, an environment that counts as installed, a demo corpus too small to learn from."""
    folder = tmp_path_factory.mktemp("checkout") / "cmacc"
    left_out = shutil.ignore_patterns(".*", "data", "runs", "__pycache__", "benchmarks")
    shutil.copytree(ROOT, folder, ignore=left_out)
    (folder / ".venv/bin").mkdir(parents=True)
    for name, program in {"python": '"$@"', "torchrun": '-m torch.distributed.run "$@"'}.items():
        (folder / ".venv/bin" / name).write_text(PYTHON + program + "\n")
        (folder / ".venv/bin" / name).chmod(0o755)
    (folder / ".venv/bin/activate").write_text('PATH="$PWD/.venv/bin:$PATH"\n')
    make_demo(folder / "data/demo/videos", videos=48, seed=0)
    for stamp in ("installed", "installed-tests"):
        (folder / ".venv" / stamp).touch()
    return folder


def run(command: str, folder: Path) -> str:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", command],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert result.returncode == 0, (result.stdout + result.stderr)[-4000:]
    return result.stdout


def test_there_are_two_commands_and_then_ones_own_videos():
    assert [block.split()[0] for block in BLOCKS] == ["make", "."]
    assert re.findall(r"^make \w+", BLOCKS[0], re.MULTILINE) == ["make train", "make test"]


def test_make_train_goes_from_videos_to_a_table(checkout):
    printed = run("make train", checkout)
    assert re.search(r"pre-trained.*random-initialised.*chance.*run folder: runs/quickstart", printed, re.DOTALL)
    assert "train.py" in run("make -n train", checkout)
    assert "-m pytest" in run("make -n test", checkout)


def test_ones_own_videos_are_prepared_trained_on_and_looked_at(checkout):
    run(BLOCKS[1].replace(" VIDEOS ", " data/demo/videos "), checkout)
    for name in ("preview.png", "report.png", "report.html", "explore.html"):
        assert (checkout / name).stat().st_size > 10_000, name
