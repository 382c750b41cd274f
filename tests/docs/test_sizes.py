"""Nothing has grown past what one reads in one go."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("benchmarks", "config", "evaluation", "experiments", "model", "pipeline", "sampler", "tests", "training")
FILES = sorted([*ROOT.glob("*.py"), *(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))])


@pytest.mark.parametrize("path", FILES, ids=[str(path.relative_to(ROOT)) for path in FILES])
def test_files_have_at_most_350_lines_and_functions_60(path):
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 350
    functions = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    assert {node.name: size for node in functions if (size := node.end_lineno - node.lineno + 1) > 60} == {}
