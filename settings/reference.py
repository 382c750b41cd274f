"""Writes the configuration reference from the dataclasses: `python -m settings.reference > docs/configuration.md`."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import itertools
import sys
import textwrap
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

import yaml

from common.terminal import command
from settings.data import PrepareConfig
from settings.evaluation import EvaluationConfig
from settings.schema import Config
from settings.search import EmbedConfig

HEAD = """\
# Configuration

Generated from the dataclasses in `settings/` by `python -m settings.reference > docs/configuration.md`; do not edit.

A run reads a YAML file, then `key=value` pairs, whose keys are dotted paths:

```sh
python train.py --config configs/quickstart.yaml optim.lr=3e-4 sampler.name=fifo run_dir=runs/fifo
```

A setting that you leave out keeps its default. An unknown key, a wrong type or a value that is not allowed is an error,
and the message names the key, the value and what is allowed. The run folder holds the resolved configuration as
`config.yaml`, which `--config` reads again.
"""


def trees() -> list[tuple[str, type, str]]:
    """Returns (title, dataclass, introduction) for the settings of each command."""
    return [
        ("Training", Config, "Settings of `train.py`."),
        ("Preparation", PrepareConfig, "Settings of `python -m pipeline.prepare SRC OUT`, set by `key=value`."),
        ("Evaluation", EvaluationConfig, "Settings of `evaluate.py`, set by `key=value`."),
        ("Embedding", EmbedConfig, "Settings of `python -m search.embed RUN SRC OUT`, set by `key=value`."),
    ]


def markdown() -> str:
    """Returns the reference as Markdown, ending with a newline."""
    parts = [HEAD]
    for title, cls, text in trees():
        parts.append(f"## {title}\n\n{text}\n")
        for prefix, section in sections(cls):
            if prefix:
                parts.append(f"### `{prefix}`\n\n{inspect.getdoc(section)}\n")
            parts.append(_table(section, prefix))
    return "\n".join(parts)


def sections(cls: type, prefix: str = "") -> Iterator[tuple[str, type]]:
    """Yields (dotted name, dataclass) for the dataclass itself and for those nested in it, in the order of fields."""
    yield prefix, cls
    for name, hint in typing.get_type_hints(cls).items():
        if isinstance(hint, type) and dataclasses.is_dataclass(hint):
            yield from sections(hint, f"{prefix}.{name}" if prefix else name)


def field_docstrings(cls: type) -> dict[str, str]:
    """Returns the docstring of each field of a dataclass that has one, joined to one line."""
    body = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0].body  # type: ignore[attr-defined]
    found = {}
    for statement, following in itertools.pairwise(body):
        if isinstance(statement, ast.AnnAssign) and isinstance(following, ast.Expr):
            found[statement.target.id] = " ".join(inspect.cleandoc(following.value.value).split())  # type: ignore
    return found


def _table(cls: type, prefix: str) -> str:
    docs, hints = field_docstrings(cls), typing.get_type_hints(cls, include_extras=True)
    lines = ["| key | type | default | |", "|---|---|---|---|"]
    for field in dataclasses.fields(cls):
        hint = hints[field.name]
        if not dataclasses.is_dataclass(hint):
            key = f"{prefix}.{field.name}" if prefix else field.name
            cells = (f"`{key}`", _type(hint), f"`{_default(field)}`", docs.get(field.name, ""))
            lines.append("| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def _type(hint: Any) -> str:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        return "whole number or `auto`"
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in arguments)
    if origin in (typing.Union, types.UnionType):
        return " or ".join("null" if a is type(None) else _type(a) for a in arguments)
    if origin is tuple and arguments[-1] is Ellipsis:
        return f"list of {_type(arguments[0])}"
    if origin is tuple:
        return f"[{', '.join(_type(a) for a in arguments)}]"
    plain = {int: "whole number", float: "number", bool: "`true`, `false`", str: "text"}
    return "mapping" if origin is dict else plain[hint]


def _default(field: dataclasses.Field[Any]) -> str:
    value = field.default if field.default is not dataclasses.MISSING else field.default_factory()  # type: ignore
    if isinstance(value, Mapping | tuple | list):
        value = list(value) if isinstance(value, tuple) else value
        return yaml.safe_dump(value, default_flow_style=True).strip()
    return '""' if value == "" else yaml.safe_dump(value).splitlines()[0]


@command("settings.reference")
def main() -> None:
    """Writes the reference to stdout."""
    sys.stdout.write(markdown())


if __name__ == "__main__":
    sys.exit(main())
