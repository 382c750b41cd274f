"""Every use of a private name of torch is tagged, so that `git grep torch-private` finds it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ALIASES = {"torch", "nn", "dist", "F"}
"""Names under which modules of torch are imported."""


def test_uses_of_private_names_of_torch_are_tagged():
    untagged = []
    for path in sorted(ROOT.glob("*.py")) + sorted(ROOT.glob("[a-z]*/**/*.py")):
        source = path.read_text(encoding="utf-8")
        lines = source.splitlines()
        for node in _private_uses(ast.parse(source)):
            if not any("# torch-private: " in line for line in lines[node.lineno - 1 : node.end_lineno]):
                untagged.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert untagged == [], "add the tag `# torch-private: <why>` to these lines"


def _private_uses(tree: ast.AST) -> Iterator[ast.ImportFrom | ast.Attribute]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            module = (node.module or "").split(".")
            if module[0] == "torch" and any(map(_is_private, [*module, *(alias.name for alias in node.names)])):
                yield node
        elif isinstance(node, ast.Attribute) and _is_private(node.attr) and _root(node) in ALIASES:
            yield node


def _is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def _root(node: ast.expr) -> str | None:
    """Returns the name that a chain of attributes starts from."""
    while isinstance(node, ast.Attribute):
        node = node.value
    return node.id if isinstance(node, ast.Name) else None
