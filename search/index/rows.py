"""The rows of an index: which seconds of which source each vector belongs to, with the source's labels.

They are an Arrow file that is mapped into memory: opening a million rows takes milliseconds, and only what is looked at
is read from disk.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from common.terminal import printable
from search.index.folder import SearchIndexError
from settings.load import suggest

_BATCH = 65_536
"""Rows per record batch of the file."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One row, as results show it."""

    id: int
    source: str
    start: float
    end: float
    labels: dict[str, str]

    def as_json(self) -> dict[str, Any]:
        """The row as plain values."""
        return asdict(self)


class Rows:
    """The rows in ascending order of their ids.

    Args:
        table: columns id (int64), source (string), start, end (float64, seconds), labels (struct of strings, or
            absent), video and audio (bool: whether there is a vector).
    """

    def __init__(self, table: pa.Table) -> None:
        self.table = table
        self.ids = table["id"].to_numpy()
        """int64 [n], ascending."""

    @classmethod
    def open(cls, path: Path) -> Rows:
        """Maps the file into memory.

        Raises:
            SearchIndexError: it is missing or damaged.
        """
        try:
            with pa.memory_map(str(path)) as file:
                return cls(pa.ipc.open_file(file).read_all())
        except (OSError, pa.ArrowException, KeyError) as error:
            raise SearchIndexError(f"cannot read the rows {path}: {error}; build the index again") from None

    def write(self, path: Path) -> None:
        """Writes the file that `open` reads.

        Raises:
            OSError: it cannot be written.
        """
        with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, self.table.schema) as writer:
            writer.write_table(self.table, max_chunksize=_BATCH)

    def __len__(self) -> int:
        return len(self.table)

    @property
    def label_names(self) -> list[str]:
        """Names of the labels, in the order of the embeddings."""
        if "labels" not in self.table.column_names:
            return []
        return [field.name for field in self.table.schema.field("labels").type]

    def label_values(self, name: str, *, most: int) -> list[str]:
        """The most frequent values of a label, at most `most`, in alphabetical order.

        None of a label of which most rows have a value of their own, such as a description: no filter needs those.
        """
        counts = pc.value_counts(self._label(name)).to_pylist()
        counts = [entry for entry in counts if entry["values"]]
        if len(counts) > max(most, len(self) // 2):
            return []
        counts.sort(key=lambda entry: -entry["counts"])
        return sorted(entry["values"] for entry in counts[:most])

    def has(self, modality: str) -> np.ndarray:
        """Which rows have a vector of this modality, bool [n]."""
        return self.table[modality].to_numpy()

    def rows(self, ids: np.ndarray) -> list[Row]:
        """The rows with these ids, which must exist, in the same order."""
        return [self._row(int(place)) for place in np.searchsorted(self.ids, ids)]

    def row(self, identifier: int) -> Row | None:
        """The row with this id; None if there is none."""
        if not 0 <= identifier < 2**63:
            return None
        place = int(np.searchsorted(self.ids, identifier))
        return self._row(place) if place < len(self) and self.ids[place] == identifier else None

    def spread(self, count: int, mask: np.ndarray | None) -> list[Row]:
        """At most `count` rows, evenly spaced over those of the mask, bool [n]."""
        places = np.arange(len(self)) if mask is None else np.flatnonzero(mask)
        chosen = np.linspace(0, len(places) - 1, min(count, len(places))).round().astype(np.int64)
        return [self._row(int(places[k])) for k in chosen]

    def matching(self, conditions: Mapping[str, str]) -> np.ndarray | None:
        """Which rows have all of these labels, bool [n]; None, which means all, without a condition.

        Raises:
            SearchIndexError: there is no such label.
        """
        mask = None
        for name, value in conditions.items():
            if name not in self.label_names:
                there = suggest(name, self.label_names) if self.label_names else "its rows have no labels"
                raise SearchIndexError(f"the index has no label {printable(name)!r}; {there}")
            equal = pc.fill_null(pc.equal(self._label(name), value), False).to_numpy()
            mask = equal if mask is None else mask & equal
        return mask

    def at(self, source: str, seconds: float) -> Row:
        """The row of a source that holds a time, or else the nearest one.

        Raises:
            SearchIndexError: the index has no such source.
        """
        places = np.flatnonzero(pc.equal(self.table["source"], source).to_numpy())
        if not len(places):
            raise SearchIndexError(f"the index has no source {printable(source)!r}; names are as in the embeddings")
        start, end = (self.table[name].take(pa.array(places)).to_numpy() for name in ("start", "end"))
        outside = np.maximum(np.maximum(start - seconds, seconds - end), 0)
        # Of overlapping rows, the one whose middle is nearest.
        best = np.lexsort((np.abs((start + end) / 2 - seconds), outside))[0]
        return self._row(int(places[best]))

    def without(self, sources: set[str]) -> Rows:
        """The rows of all other sources."""
        gone = pc.is_in(self.table["source"], value_set=pa.array(sorted(sources), pa.string()))
        return Rows(self.table.filter(pc.invert(gone)).combine_chunks())

    def sources_among(self, sources: pa.ChunkedArray) -> list[str]:
        """Those of `sources`, each once and sorted, that have rows here."""
        here = pc.unique(self.table["source"])
        return sorted(value for value in pc.unique(sources.filter(pc.is_in(sources, value_set=here))).to_pylist())

    def _label(self, name: str) -> Any:
        return pc.struct_field(self.table["labels"], name)

    def _row(self, place: int) -> Row:
        (values,) = self.table.slice(place, 1).to_pylist()
        labels = {name: value for name, value in (values.get("labels") or {}).items() if value}
        return Row(id=values["id"], source=values["source"], start=values["start"], end=values["end"], labels=labels)


def joined(old: Rows, new: Rows) -> Rows:
    """The rows of both; labels that only one of them has are empty in the other."""
    names = list(dict.fromkeys([*old.label_names, *new.label_names]))
    return Rows(pa.concat_tables([_with_labels(old, names), _with_labels(new, names)]).combine_chunks())


def _with_labels(rows: Rows, names: list[str]) -> pa.Table:
    """The table of `rows` with a column of exactly these labels, in this order; without one if there are no names."""
    if not names:
        return rows.table
    absent, present = pa.nulls(len(rows), pa.string()), rows.label_names
    columns = [_combined(rows._label(name)) if name in present else absent for name in names]
    kept = [name for name in rows.table.column_names if name != "labels"]
    return rows.table.select(kept).append_column("labels", pa.StructArray.from_arrays(columns, names))


def _combined(column: pa.ChunkedArray) -> pa.Array:
    combined = column.combine_chunks()
    return pa.concat_arrays(combined.chunks) if isinstance(combined, pa.ChunkedArray) else combined
