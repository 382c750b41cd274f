"""Reads the records of preparation: the recipe, the rows of the indexes, and the journals of rejected files."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from common.files import write_atomically
from common.trees import flatten
from pipeline.prepare.sources import PrepareError as PrepareError
from pipeline.shards.checksums import read_index_line
from pipeline.shards.tar_writer import RowError, checked_row, is_text
from settings import PrepareConfig
from settings.load import format_key, format_value, to_dict

LIMITS = ("timeout_seconds", "memory_mb")
"""Settings that limit the work on a source. They do not affect the samples, so they may differ between runs."""


def index_rows(out: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields (shard file name, row) for every packed sample of all parts, shard by shard.

    Raises:
        PrepareError: an index file is damaged; the message names the line.
    """
    for path in sorted((out / "index").glob("*.jsonl")):
        for row in read_index(path):
            yield f"{path.stem}.tar", row


def read_index(path: Path) -> Iterator[dict[str, Any]]:
    """Yields the rows of one index file.

    Raises:
        PrepareError: it is damaged; the message names the line.
    """
    try:
        yield from index_records(path)
    except RowError as error:
        raise PrepareError(damaged_message(path, error)) from None


def index_records(index: Path) -> Iterator[dict[str, Any]]:
    """Yields the rows of an index file; raises RowError, which names the line, if it is damaged."""
    number, row = 0, dict[str, Any]()
    with index.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                row = checked_row(read_index_line(line))
                if not _is_version(row):
                    raise RowError("key, size or mtime_ns is missing")
            except (ValueError, RecursionError) as error:
                raise RowError(f"line {number}: {error}") from None
            yield row
    if row.get("lines", number) != number:
        raise RowError(f"it has {number} of {row['lines']} lines")


def damaged_message(index: Path, error: RowError) -> str:
    """Returns what to tell the user of a damaged index that may not be set aside."""
    return f"{index} or its shard is damaged ({error}); run the command of its part again, which repairs it"


def read_journal(path: Path) -> Iterator[dict[str, Any]]:
    """Yields the rejections in `path`. Incomplete lines are skipped, so that their sources are tried again."""
    if not path.exists():
        return
    with path.open(encoding="utf-8", errors="replace") as file:
        for line in file:
            try:
                entry = json.loads(line)
            except (ValueError, RecursionError):
                continue
            if isinstance(entry, dict) and _is_rejection(entry):
                yield entry


def _is_rejection(entry: Mapping[str, Any]) -> bool:
    texts = (entry.get("source"), entry.get("reason"), entry.get("detail", ""))
    return "limits" in entry and _is_version(entry) and all(map(is_text, texts))


def _is_version(entry: Mapping[str, Any]) -> bool:
    """Whether the entry names a version of a source, as `Source` does."""
    return is_text(entry.get("key")) and all(type(entry.get(name)) is int for name in ("size", "mtime_ns"))


def check_recipe(out: Path, config: PrepareConfig, labels: str) -> None:
    """Writes recipe.json, or compares it with the present settings.

    Args:
        labels: where labels come from, `file`, `folders` or `annotations`.

    Raises:
        PrepareError: OUT was prepared with other settings, or its recipe cannot be read.
    """
    recipe = {"labels": labels} | {key: value for key, value in to_dict(config).items() if key not in LIMITS}
    if not config.windows:
        del recipe["windows"]  # older recipes do not have it
    path = out / "recipe.json"
    try:
        text = path.read_text(encoding="utf-8")
        if not text.strip("\0 \n"):  # a power failure emptied it, although it had been synced
            raise FileNotFoundError(path)
        content = json.loads(text)
        if not isinstance(content, dict):
            raise ValueError(f"it must hold a JSON object, not {format_value(content)}")
        old = flatten(content)
    except FileNotFoundError:
        if any(out.glob("shard-*.tar")):
            raise PrepareError(f"{out} holds shards but no recipe.json; prepare into an empty folder") from None
        write_atomically(path, json.dumps(recipe, indent=1) + "\n", durable=True)
        return
    except (OSError, ValueError, RecursionError) as error:
        raise PrepareError(f"cannot read {path}: {error}") from None
    new = flatten(recipe)
    differing = [
        f"{format_key('', key)} was {_setting(old, key)} and is now {_setting(new, key)}"
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key)
    ]
    if differing:
        remedy = "Use the same settings, or another folder"
        if old.get("labels") != new["labels"] and "annotations" not in (old.get("labels"), new["labels"]):
            remedy += f"; to change only labels: python -m pipeline.labels {out} LABELS"
        raise PrepareError(f"{out} was prepared with other settings: {'; '.join(differing)}. {remedy}")


def _setting(recipe: Mapping[str, Any], key: str) -> str:
    return format_value(recipe[key]) if key in recipe else "unset"
