"""docs/configuration.md says what the dataclasses in settings/ hold."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest
import yaml

from settings import Config, from_dict
from settings.reference import field_docstrings, markdown, sections, trees

DOCS = Path(__file__).resolve().parents[2] / "docs"
EVERY_SECTION = [section for _, tree, _ in trees() for section in sections(tree)]


@dataclass(frozen=True)
class Inner:
    """Below."""

    kind: Literal["a", "b"] = "a"
    """Spread
    over lines."""
    silent: int = 3


@dataclass(frozen=True)
class Outer:
    """Above."""

    inner: Inner = field(default_factory=Inner)


def test_the_reference_is_up_to_date():
    written = (DOCS / "configuration.md").read_text(encoding="utf-8")
    assert written == markdown(), "run: python -m settings.reference > docs/configuration.md"


@pytest.mark.parametrize(("name", "section"), EVERY_SECTION, ids=lambda value: str(value))
def test_every_setting_is_explained(name, section):
    settings = {f.name for f in dataclasses.fields(section) if not dataclasses.is_dataclass(f.default_factory)}
    assert settings <= set(field_docstrings(section)), f"{name}: a string under each field says what it is for"


def test_docstrings_belong_to_the_field_above_them():
    assert field_docstrings(Inner) == {"kind": "Spread over lines."}


def test_sections_carry_their_dotted_names():
    assert list(sections(Outer)) == [("", Outer), ("inner", Inner)]


def test_defaults_in_the_reference_read_back_as_the_defaults():
    tree: dict = {}
    for line in markdown().partition("## Preparation")[0].splitlines():
        if line.startswith("| `"):
            key, _, default = (cell.strip().strip("`") for cell in line.split(" | ")[:3])
            *parents, leaf = key.removeprefix("| `").split(".")
            node = tree
            for parent in parents:
                node = node.setdefault(parent, {})
            node[leaf] = yaml.safe_load(default)
    assert from_dict(Config, tree) == Config()
