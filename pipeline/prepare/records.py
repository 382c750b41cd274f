"""Reads the records of preparation: the recipe, the rows of the indexes, and the journals of rejected files."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from common.files import write_atomically
from common.trees import flatten
from pipeline.prepare.sources import PrepareError as PrepareError
from pipeline.shards.checksums import index_line, read_index_line
from pipeline.shards.index.files import LINES, PACKED, index_files
from pipeline.shards.index.packed_rows import PackedRows, pack
from pipeline.shards.tar_writer import RowError, checked_row, is_text
from settings import PrepareConfig
from settings.load import format_key, format_value, to_dict

LIMITS = ("timeout_seconds", "memory_mb")
"""Settings that limit the work on a source. They do not affect the samples, so they may differ between runs."""


def index_suffix(out: Path) -> str:
    """The suffix of new index files, according to the recipe of `out`."""
    recipe = json.loads((out / "recipe.json").read_text(encoding="utf-8"))
    return PACKED if recipe.get("index") == "packed" else LINES


def index_rows(out: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields (shard file name, row) for every packed sample of all parts, shard by shard.

    Raises:
        PrepareError: an index file is damaged; the message names the line.
    """
    for path in index_files(out):
        for row in read_index(path):
            yield f"{path.stem}.tar", row


def read_index(path: Path) -> Iterator[dict[str, Any]]:
    """Yields the rows of one index file.

    Raises:
        PrepareError: it is damaged; the message says where.
    """
    try:
        yield from index_records(path)
    except RowError as error:
        raise PrepareError(damaged_message(path, error)) from None


def index_records(index: Path) -> Iterator[dict[str, Any]]:
    """Yields the rows of an index file; raises RowError, which says where, if it is damaged."""
    if index.suffix == PACKED:
        if index.stat().st_size:  # else all samples were removed
            yield from PackedRows(index.read_bytes()).rows()
        return
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


def read_packed(index: Path) -> PackedRows | None:
    """Returns the rows of a packed index file, which must not be empty; None if it holds JSON lines.

    Raises:
        PrepareError: it is damaged.
    """
    if index.suffix != PACKED:
        return None
    try:
        return PackedRows(index.read_bytes())
    except RowError as error:
        raise PrepareError(damaged_message(index, error)) from None


def read_versions(path: Path) -> list[dict[str, Any]]:
    """Returns what `index_versions` returns.

    Raises:
        PrepareError: the index file is damaged; the message says where.
    """
    try:
        return index_versions(path)
    except RowError as error:
        raise PrepareError(damaged_message(path, error)) from None


def index_versions(index: Path) -> list[dict[str, Any]]:
    """Returns the rows of an index file, where those of a packed one lack numbers and frames, except the last row.

    Raises:
        RowError: the file is damaged.
    """
    if index.suffix == PACKED and index.stat().st_size:
        packed = PackedRows(index.read_bytes())
        return [*packed.versions(packed.count - 1), *packed.rows(packed.count - 1)]
    return list(index_records(index))


def write_index(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Replaces the rows of an index file; without rows it becomes empty."""
    if path.suffix == PACKED:
        data = pack(rows) if rows else b""
    else:
        data = "".join(index_line({**row, "lines": len(rows)}) for row in rows).encode("utf-8")
    write_atomically(path, data, durable=True)


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
    recipe["index"] = "packed"  # a version that reads only JSON lines refuses to continue then
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
    if "index" not in old:
        del recipe["index"]  # begun by such a version, which may also continue
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
