"""Reads the records of preparation: the rows of the indexes, and the journals of rejected files."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pipeline.prepare.sources import PrepareError as PrepareError
from pipeline.shards.checksums import read_index_line
from pipeline.shards.tar_writer import RowError, checked_row, is_text


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
