"""Writes results as JSON next to the checkpoint and prints them as a table."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from common.files import file_name, write_atomically
from common.finite import require_finite
from common.terminal import encodable, printable
from training.report.evaluations import cell, shown_columns

TEXT = ("encoder", "training", "modality", "layer")
"""Columns that contain text and are left-aligned."""


def require_finite_rows(rows: Sequence[Mapping[str, Any]]) -> None:
    """Raises NotFiniteError, which names the encoder and the column, unless all figures of the rows are finite."""
    for row in rows:
        for column, value in row.items():
            if isinstance(value, int | float):
                require_finite(value, f"the figures of {row.get('encoder', 'a row')} in the column {column}")


def write_json(path: Path, result: dict[str, Any]) -> None:
    """Writes the result atomically."""
    write_atomically(path, json.dumps(result, indent=2) + "\n")


def print_table(result: dict[str, Any], console: Console) -> None:
    """Prints one line per row of `result["rows"]`, with columns in the order of their first appearance.

    An interval stands in brackets beside its figure; the standard error is then left out. The sentences of
    `result["notes"]` follow the table.
    """
    columns = shown_columns(result["rows"])

    def plain(text: str, *, lines: bool = False) -> Text:
        return Text(encodable(printable(text, lines=lines), console.encoding))

    table = Table(title=plain(result["title"]), caption=plain(result["caption"], lines=True))
    for column in columns:
        justify: Literal["left", "right"] = "left" if column in TEXT else "right"
        table.add_column(plain(column.replace("_", " ")), justify=justify, overflow="fold")
    for row in result["rows"]:
        table.add_row(*(plain(cell(row, column)) for column in columns))
    if not console.is_terminal:
        # rich would wrap lines in a file or pipe at 80 characters.
        console.width = Measurement.get(console, console.options.update(max_width=1000), table).maximum
    console.print(table)
    for note in result.get("notes", ()):
        console.print(plain(note), soft_wrap=not console.is_terminal)


def result_path(folder: Path, name: str) -> Path:
    """The file of a result in a run folder; `name` may hold the name of a label column, hence any characters."""
    return folder / f"evaluation-{file_name(name)}.json"


def run_folder(checkpoint: Path) -> Path:
    """The run folder of a checkpoint, which may be given as that folder or as a file within it."""
    if checkpoint.is_dir():
        return checkpoint
    return checkpoint.parent.parent if checkpoint.parent.name == "checkpoints" else checkpoint.parent
