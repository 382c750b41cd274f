"""Changes to what OUT has recorded, safe against a kill and against other processes and machines."""

from __future__ import annotations

import fcntl
from collections.abc import Callable, Container, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from common.files import write_atomically, write_json_lines
from pipeline.prepare.records import read_index, read_journal
from pipeline.prepare.sources import PackedSample
from pipeline.shards.checksums import index_line


@contextmanager
def locked(out: Path) -> Iterator[None]:
    """Lets one process at a time, whatever its part, change sources.json, labels.jsonl and the indexes of shards."""
    # recipe.json is never replaced, so all processes open the same file; open for writing, as NFS demands for a lock.
    with (out / "recipe.json").open("r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def edit_index(
    out: Path,
    edit: Callable[[PackedSample, dict[str, Any]], dict[str, Any] | None],
    *,
    shards: Container[str] | None = None,
) -> None:
    """Replaces each row of the indexes by what `edit` returns for it; None removes the row.

    Each index file is replaced atomically. The index of a shard without samples is kept as an empty file, so that no
    later shard takes its name.

    Args:
        shards: names of the shards to edit, without suffix; by default all.
    """
    with locked(out):
        for path in sorted((out / "index").glob("*.jsonl")):
            if shards is not None and path.stem not in shards:
                continue
            old = list(read_index(path))
            new = [row for row in (edit(PackedSample.of(path.stem, row), row) for row in old) if row is not None]
            if new != old:
                write_atomically(path, "".join(index_line(row | {"lines": len(new)}) for row in new), durable=True)


def prune_journals(out: Path, keep: Callable[[str], bool]) -> None:
    """Removes the rejections from the journals for whose source name `keep` returns False."""
    with locked(out):
        for path in sorted((out / "index").glob("*.rejected")):
            entries = list(read_journal(path))
            kept = [entry for entry in entries if keep(entry["source"])]
            if len(kept) < len(entries):
                # An entry that another process appends at this moment is lost; a later run then tries its file again.
                write_json_lines(path, kept)
