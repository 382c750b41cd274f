"""Labels that were attached to a prepared data set; they take the place of those from preparation.

OUT/labels.jsonl: a line {"columns": [...]}, then a line {"source": ..., "labels": {column: text}} per sample.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from common.files import write_json_lines
from pipeline.prepare.records import PrepareError
from pipeline.shards.tar_writer import is_text

FILE = "labels.jsonl"


def read_attached(out: Path) -> tuple[list[str], dict[str, dict[str, str]]]:
    """Returns the columns, and source -> column -> text; both are empty if nothing was attached.

    Raises:
        PrepareError: the file is damaged.
    """
    path = out / FILE
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except FileNotFoundError:
        return [], {}
    except (OSError, UnicodeDecodeError) as error:
        raise PrepareError(f"cannot read {path}: {error}") from None
    try:
        columns = json.loads(lines[0])["columns"]
        entries = [json.loads(line) for line in lines[1:] if line]
        by_source = {entry["source"]: entry["labels"] for entry in entries}
        texts = [
            *columns,
            *by_source,
            *(text for values in by_source.values() for item in values.items() for text in item),
        ]
        if type(columns) is not list or not all(map(is_text, texts)):
            raise ValueError("a column, source or label is no text")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise PrepareError(
            f"{path} is damaged ({error}); restore it, or delete it and attach the labels again with pipeline.labels"
        ) from None
    return columns, by_source


def write_attached(out: Path, columns: Sequence[str], by_source: Mapping[str, Mapping[str, str]]) -> None:
    """Replaces the attached labels."""
    entries = [{"source": source, "labels": by_source[source]} for source in sorted(by_source)]
    write_json_lines(out / FILE, [{"columns": list(columns)}, *entries], durable=True)


def rename_attached(out: Path, names: Mapping[str, str]) -> None:
    """Lets attached labels follow samples that were renamed; `names` maps old names to new ones."""
    columns, by_source = read_attached(out)
    if names.keys() & by_source.keys():
        write_attached(out, columns, {names.get(source, source): values for source, values in by_source.items()})
