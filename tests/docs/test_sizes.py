"""Nothing has grown past what one reads in one go."""

from __future__ import annotations

import ast
import statistics
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = sorted(
    [*(path.parent for path in ROOT.glob("*/__init__.py")), ROOT / "tests"],
)
FILES = sorted([*ROOT.glob("*.py"), *(path for package in PACKAGES for path in package.rglob("*.py"))])
FOLDERS = sorted({path.parent for path in FILES} - {ROOT})


@pytest.mark.parametrize("path", FILES, ids=[str(path.relative_to(ROOT)) for path in FILES])
def test_files_have_at_most_350_lines_and_functions_60(path):
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 350
    functions = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    assert {node.name: size for node in functions if (size := node.end_lineno - node.lineno + 1) > 60} == {}


def test_half_of_the_files_have_at_most_120_lines():
    assert statistics.median(len(path.read_text(encoding="utf-8").splitlines()) for path in FILES) <= 120


@pytest.mark.parametrize("folder", FOLDERS, ids=[str(folder.relative_to(ROOT)) for folder in FOLDERS])
def test_folders_hold_at_most_16_files(folder):
    assert len([path for path in folder.iterdir() if path.is_file()]) <= 16


def test_the_packages_are_those_of_the_checks():
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    for package in PACKAGES:
        assert text.count(f'"{package.name}"') >= 1, f"pyproject.toml checks nothing of {package.name}"
