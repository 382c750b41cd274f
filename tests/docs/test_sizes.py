"""Nothing has grown past what one reads in one go."""

from __future__ import annotations

import ast
import statistics
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = {path for path in ROOT.iterdir() if path.is_dir() and path.name[0] not in "._"} - {ROOT / "site"}
FILES = sorted([*ROOT.glob("*.py"), *(path for folder in FOLDERS for path in folder.rglob("*.py"))])


@pytest.mark.parametrize("path", FILES, ids=[str(path.relative_to(ROOT)) for path in FILES])
def test_files_have_at_most_350_lines_and_functions_60(path):
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 350
    functions = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    assert {node.name: size for node in functions if (size := node.end_lineno - node.lineno + 1) > 60} == {}


def test_the_median_file_has_at_most_120_lines():
    assert statistics.median(len(path.read_text(encoding="utf-8").splitlines()) for path in FILES) <= 120


@pytest.mark.parametrize("folder", sorted({path.parent for path in FILES} - {ROOT}), ids=str)
def test_folders_of_code_hold_at_most_16_files(folder):
    assert len([path for path in folder.iterdir() if path.is_file()]) <= 16
