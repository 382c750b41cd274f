"""Writes results as JSON next to the checkpoint and prints them as a table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

from common.files import write_atomically

FORMATS = {
    "accuracy": "{:.3f}",
    "standard_error": "±{:.3f}",
    "accuracy_sd": "±{:.3f}",
    "clip_accuracy_sd": "±{:.3f}",
    "C": "{:g}",
    "k": "{:d}",
    "median_rank": "{:.1f}",
}

TEXT = ("encoder", "training", "modality")
"""Columns that contain text and are left-aligned."""


def write_json(path: Path, result: dict[str, Any]) -> None:
    """Writes the result atomically."""
    write_atomically(path, json.dumps(result, indent=2) + "\n")


def print_table(result: dict[str, Any], console: Console) -> None:
    """Prints one line per row of `result["rows"]`, with columns in the order of their first appearance."""
    columns = list(dict.fromkeys(column for row in result["rows"] for column in row))
    table = Table(title=result["title"], caption=result["caption"])
    for column in columns:
        table.add_column(column.replace("_", " "), justify="left" if column in TEXT else "right", overflow="fold")
    for row in result["rows"]:
        table.add_row(*(_cell(column, row.get(column)) for column in columns))
    if not console.is_terminal:
        # rich would wrap lines in a file or pipe at 80 characters.
        console.width = Measurement.get(console, console.options.update(max_width=1000), table).maximum
    console.print(table)


def run_folder(checkpoint: Path) -> Path:
    """The run folder of a checkpoint, which may be given as that folder or as a file within it."""
    if checkpoint.is_dir():
        return checkpoint
    return checkpoint.parent.parent if checkpoint.parent.name == "checkpoints" else checkpoint.parent


def _cell(column: str, value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, list):
        return " ".join(f"{item:.3f}" for item in value)
    return value if isinstance(value, str) else FORMATS.get(column, "{:.3f}").format(value)
