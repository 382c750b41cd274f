"""Changes to what OUT has recorded, safe against a kill and against other processes and machines."""

from __future__ import annotations

import fcntl
from collections.abc import Callable, Container, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from common.files import write_json_lines
from pipeline.prepare.records import read_index, read_journal, read_versions, write_index
from pipeline.prepare.sources import PackedSample
from pipeline.shards.index.files import index_files


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
    concerns: Callable[[PackedSample, dict[str, Any]], bool] | None = None,
) -> None:
    """Replaces each row of the indexes by what `edit` returns for it; None removes the row.

    Each index file is replaced atomically. The index of a shard without samples is kept as an empty file, so that no
    later shard takes its name.

    Args:
        shards: names of the shards to edit, without suffix; by default all.
        concerns: whether `edit` may change a row, of which this gets only what `index_versions` returns.
    """
    with locked(out):
        for path in index_files(out):
            if shards is not None and path.stem not in shards:
                continue
            if concerns is not None and not any(
                concerns(PackedSample.of(path.stem, row), row) for row in read_versions(path)
            ):
                continue
            old = list(read_index(path))
            new = [row for row in (edit(PackedSample.of(path.stem, row), row) for row in old) if row is not None]
            if new != old:
                write_index(path, new)


def prune_journals(out: Path, keep: Callable[[str], bool]) -> None:
    """Removes the rejections from the journals for whose source name `keep` returns False."""
    with locked(out):
        for path in sorted((out / "index").glob("*.rejected")):
            entries = list(read_journal(path))
            kept = [entry for entry in entries if keep(entry["source"])]
            if len(kept) < len(entries):
                # An entry that another process appends at this moment is lost; a later run then tries its file again.
                write_json_lines(path, kept)
