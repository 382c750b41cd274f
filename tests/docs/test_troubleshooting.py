"""Every message in docs/troubleshooting.md is one that the code prints."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8").partition("## From other libraries")[0]
MESSAGES = [
    message
    for heading in re.findall(r"^### (`.*`)$", TEXT, re.MULTILINE)
    for message in heading.strip("`").split("`, `")
    if "…" in message or " " in message
]
SOURCES = [
    source
    for folder in ("common", "settings", "evaluation", "model", "pipeline", "sampler", "training")
    for source in (ROOT / folder).rglob("*.py")
]


def _texts(tree: ast.AST) -> list[str]:
    """String literals with a … for each placeholder; adjacent ones are already joined by the parser."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            found.append("".join(part.value if isinstance(part, ast.Constant) else "…" for part in node.values))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.append(re.sub(r"%[-.\d]*[sdfg]", "…", node.value))
    return found


@pytest.fixture(scope="module")
def texts() -> list[str]:
    return [text for source in SOURCES for text in _texts(ast.parse(source.read_text(encoding="utf-8")))]


def test_there_are_messages_to_look_for():
    assert len(MESSAGES) > 20


@pytest.mark.parametrize("message", MESSAGES)
def test_the_code_prints_this_message(texts, message):
    pieces = [piece.strip() for piece in re.split(r" of …|[…?;]|: ", message) if piece.strip(" ;:()")]
    # Parts of one message may stand in several literals, as a helper may add the hint or the file.
    for piece in pieces:
        assert any(piece in text for text in texts), f"no message holds {piece!r}"


def test_every_reason_for_leaving_a_file_out_is_explained():
    reasons = set()
    for source in SOURCES:
        for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "RejectedSource" and node.args:
                reasons.add(node.args[0].value)
    table = TEXT.partition("### What the reasons")[2].partition("Rejected files are")[0]
    explained = {
        reason for row in re.findall(r"^\| (`.*?) \|", table, re.MULTILINE) for reason in re.findall("`(.*?)`", row)
    }
    assert explained == reasons
