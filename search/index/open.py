"""Opens an index for search; its files are mapped into memory, not read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from search.index.folder import Head, SearchIndexError, read_head
from search.index.rows import Rows
from search.index.vectors import Vectors, open_vectors


@dataclass(frozen=True, kw_only=True)
class Index:
    """An open index. Later changes of the folder do not affect it."""

    folder: Path
    head: Head
    rows: Rows
    vectors: dict[str, Vectors]
    """Modality -> its vectors; a modality without vectors is absent."""


def open_index(folder: Path) -> Index:
    """Opens the index of a folder.

    Raises:
        SearchIndexError: there is none, or it is damaged.
    """
    head = read_head(folder)
    try:
        return _open(folder, head)
    except SearchIndexError:
        # Another process may have published a change, and removed these files, since the head was read.
        newer = read_head(folder)
        if newer.generation == head.generation:
            raise
        return _open(folder, newer)


def _open(folder: Path, head: Head) -> Index:
    rows = Rows.open(folder / head.file("rows", "arrow"))
    if len(rows) != head.rows:
        raise SearchIndexError(f"{folder} holds {len(rows):,} rows, not {head.rows:,}: build the index again")
    vectors = {
        modality: open_vectors(
            folder / head.file(modality, "flat"),
            folder / head.file(modality, "ivfpq") if structure.kind == "ivfpq" else None,
            ids=rows.ids[rows.has(modality)],
            structure=structure,
        )
        for modality, structure in head.structures.items()
    }
    return Index(folder=folder, head=head, rows=rows, vectors=vectors)
