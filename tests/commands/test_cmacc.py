"""./cmacc knows every command, starts it from any folder and completes what may follow."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.commands.table import CMACC, COMMANDS, ROOT

ELSEWHERE = {"settings.reference"}
"""Modules that only the documentation is made with."""
FOLDERS = (
    *("pipeline", "training", "evaluation", "search", "experiments", "benchmarks"),
    *("settings", "model", "sampler", "common"),
)


def test_every_module_that_is_a_command_is_in_the_table():
    files = [*ROOT.glob("*.py"), *(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))]
    commands = [path for path in files if "sys.exit(main())" in path.read_text(encoding="utf-8")]
    modules = {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__main__") for path in commands}
    assert modules - ELSEWHERE == {module for module, _ in COMMANDS.values()}


def test_one_page_lists_all_commands(tmp_path: Path):
    done = subprocess.run([sys.executable, ROOT / "cmacc"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert re.findall(r"^  (\S+)  +\S", done.stdout, re.MULTILINE) == list(COMMANDS)
    line = [sys.executable, ROOT / "cmacc", "help", "export"]
    done = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("usage: python export.py")


def test_an_unknown_command_names_the_nearest():
    with pytest.raises(SystemExit, match=r"there is no command 'tain'; did you mean train\?"):
        CMACC["start"]("tain", [])


def test_tab_completes_commands_options_and_settings():
    assert set(COMMANDS) < set(CMACC["words"]("tr"))
    line = [sys.executable, ROOT / "cmacc", "--words", "prepare"]
    found = subprocess.run(line, capture_output=True, text=True, check=True).stdout.splitlines()
    assert {"--labels", "--sync", "storage.fps=", "min_seconds="} <= set(found)
    assert {"clips=", "finetune.lr="} <= set(CMACC["settings_of"]("evaluate"))
    assert not CMACC["settings_of"]("doctor")
