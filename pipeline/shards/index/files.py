"""The index files of a prepared folder: one per shard, from which the manifest can be rebuilt."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pipeline.shards.checksums import read_index_line
from pipeline.shards.index.packed_rows import PackedRows

PACKED, LINES = ".rows", ".jsonl"
"""Suffixes of index files: packed columns, and JSON lines, which data sets that were begun by older versions keep."""


def index_files(out: Path) -> list[Path]:
    """The index files of `out`, sorted by name; none if it has no folder for them."""
    folder = out / "index"
    return sorted(path for path in folder.iterdir() if path.suffix in (PACKED, LINES)) if folder.is_dir() else []


def index_file(out: Path, shard: str) -> Path:
    """The index file of the shard of this name (without its suffix), which may be missing."""
    lines = out / "index" / f"{shard}{LINES}"
    return lines if lines.exists() else lines.with_suffix(PACKED)


def index_damage(folder: Path) -> Iterator[tuple[Path, str]]:
    """Yields the damaged index files of a prepared folder, and what is wrong with each."""
    for path in index_files(folder):
        where = ""
        try:
            if path.suffix == PACKED:
                if data := path.read_bytes():
                    PackedRows(data)
                continue
            with path.open("rb") as file:
                for number, line in enumerate(file, start=1):
                    where = f"line {number} "
                    read_index_line(line)
        except (ValueError, RecursionError, OSError) as error:
            yield path, f"{where}cannot be read ({' '.join(str(error).split())})"
