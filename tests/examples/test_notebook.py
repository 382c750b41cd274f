"""The notebook runs from its first cell to its last, on a small corpus, and is stored with its pictures."""

from __future__ import annotations

import base64
import io
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient
from PIL import Image

from tests.commands.table import COMMANDS, ROOT

PATH = ROOT / "examples" / "first_hour.ipynb"
STORED = nbformat.read(PATH, as_version=4)
CODE = [cell for cell in STORED.cells if cell.cell_type == "code"]
PICTURES = 3
LARGEST = 1_000_000
"""Largest notebook, in bytes: it is part of every clone."""


def pictures(notebook: Any) -> Iterator[tuple[str, Image.Image]]:
    """The source of each cell that shows a picture, and the picture."""
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            for kind, data in output.get("data", {}).items():
                if kind.startswith("image/"):
                    with Image.open(io.BytesIO(base64.b64decode(data))) as picture:
                        picture.load()
                        yield cell.source, picture


def printed(notebook: Any) -> str:
    return "".join(output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", []))


@pytest.fixture(scope="module")
def executed(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The notebook after a run on a corpus of 16 videos, with 12 steps."""
    folder = tmp_path_factory.mktemp("first_hour")
    notebook = nbformat.read(PATH, as_version=4)
    (cell,) = (cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", []))
    values = {"work": f'Path("{folder}")', "demo_videos": 16, "steps": 12}
    for name, value in values.items():
        cell.source, count = re.subn(rf"^{name} = [^#\n]*", f"{name} = {value}  ", cell.source, flags=re.MULTILINE)
        assert count == 1
    client = NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(PATH.parent)}})
    client.execute(env=os.environ | {"OMP_NUM_THREADS": "1"})
    return notebook, folder


def test_every_step_works_and_shows_its_picture(executed):
    notebook, folder = executed
    assert [picture.width > 500 and picture.height > 100 for _, picture in pictures(notebook)] == [True] * PICTURES
    text = printed(notebook)
    assert "16 videos made" in text
    assert "finished at step 12" in text
    for name in ("shards/manifest/meta.json", "run/report.html", "run/evaluation-retrieval.json", "explore.html"):
        assert (folder / name).exists(), name


def test_a_command_that_fails_ends_the_notebook(executed):
    (helper,) = (cell.source for cell in CODE if "def cmacc" in cell.source)
    program = (
        f"import os, subprocess, sys\nfrom pathlib import Path\n{helper.partition('work.mkdir')[0]}\ncmacc('prepare')"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "RuntimeError: ./cmacc prepare ended with status 2" in done.stderr


def test_the_stored_notebook_is_a_whole_run_with_its_pictures():
    nbformat.validate(STORED)
    assert [cell.execution_count for cell in CODE] == list(range(1, len(CODE) + 1))
    assert len(list(pictures(STORED))) == PICTURES
    assert "finished at step" in printed(STORED)
    assert PATH.stat().st_size < LARGEST
    assert not re.search(r"/(root|home|tmp|work)/", printed(STORED)), "it names folders of the machine that ran it"
    assert all(output.output_type != "error" for cell in CODE for output in cell.outputs)


def test_the_commands_and_files_that_it_names_exist():
    text = "\n".join(cell.source for cell in STORED.cells)
    named = set(re.findall(r"\./cmacc ([a-z]+)", text)) | set(re.findall(r'cmacc\(\s*f?"([a-z]+) ', text))
    assert {"demo", "prepare", "preview", "train", "report", "evaluate", "explore"} <= named <= set(COMMANDS)
    for name in re.findall(r"\b(?:docs|configs)/\w+\.\w+|requirements\.\w+", text):
        assert (ROOT / name).exists(), name


def test_on_colab_it_installs_next_to_the_packages_that_are_there():
    (setup,) = (cell.source for cell in CODE if "google.colab" in cell.source)
    programs = [shlex.split(" ".join(re.findall(r'"([^"]*)"', line))) for line in re.findall(r"run\(\[(.*?)\]", setup)]
    assert ["uv", "pip", "install", "--quiet", "--require-hashes", "-r", "requirements.lock"] in programs
    assert ["uv", "venv", "--quiet", ".venv"] in programs, "cmacc continues in .venv"
    assert STORED.metadata["accelerator"] == "GPU"
