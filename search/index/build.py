"""Builds an index from embeddings, and adds and removes rows; every change is complete or did not happen."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pyarrow as pa

from common.finite import NotFiniteError, require_finite
from common.phases import begin
from common.terminal import printable
from search.embeddings import Embeddings, EmbeddingsError, open_embeddings
from search.index.cells import SMALLEST, measure, sample_queries, train
from search.index.folder import HEAD, MODALITIES, Head, SearchIndexError, Structure, changing, publish
from search.index.open import Index, open_index
from search.index.rows import Rows, joined
from search.index.vectors import Vectors, read_faiss, write_faiss

_BLOCK = 16_384
"""Rows that are read from the embeddings at once."""
_GROWN = 4
"""Growth since the cells were computed above which a new index is advised: cells of old vectors fit new ones worse."""


@dataclass(kw_only=True)
class _Content:
    """What an index will hold, in memory while it is written."""

    rows: Rows
    flat: dict[str, Any] = field(default_factory=dict)
    """Modality -> FAISS's flat index of its vectors, in the order of the rows that have one."""
    cells: dict[str, Any] = field(default_factory=dict)
    """Modality -> FAISS's IVF-PQ index, if there is one already."""


def opened(folder: Path) -> Embeddings:
    """Opens embeddings.

    Raises:
        SearchIndexError: the folder holds none that can be read.
    """
    try:
        return open_embeddings(folder)
    except EmbeddingsError as error:
        raise SearchIndexError(str(error)) from None


def build(embeddings: Embeddings, folder: Path, *, exact_up_to: int) -> Head:
    """Builds an index in a folder that holds none.

    Args:
        exact_up_to: number of vectors above which cells are computed for a modality.

    Raises:
        SearchIndexError: the folder holds an index already, or the embeddings are empty, damaged or not finite.
        OSError: the index cannot be written.
    """
    with changing(folder):
        if (folder / HEAD).exists():
            raise SearchIndexError(
                f"{folder} holds an index already: add to it with --add, or choose another folder for a new one"
            )
        head = Head(
            generation=0,
            rows=0,
            next_id=0,
            model=embeddings.meta["model"],
            source=embeddings.meta["source"],
            exact_up_to=exact_up_to,
            structures={},
        )
        return _write(folder, head, _read(embeddings, first_id=0))


def add(embeddings: Embeddings, folder: Path, *, replacing: bool) -> tuple[Head, int]:
    """Adds the rows of embeddings of the same encoders.

    Args:
        replacing: whether rows of sources that the index has already are replaced; otherwise these are an error.

    Returns:
        The new head, and the number of rows that were replaced.

    Raises:
        SearchIndexError: the encoders differ, or the index has a source already.
        OSError: as for `build`.
    """
    with changing(folder):
        old = open_index(folder)
        if embeddings.fingerprint != old.head.model["fingerprint"]:
            raise SearchIndexError(
                f"{embeddings.folder} was made with other encoders ({embeddings.meta['model']['run']}) than {folder} "
                f"({old.head.model['run']}), so their vectors cannot be compared: embed with that run"
            )
        new = _read(embeddings, first_id=old.head.next_id)
        present = old.rows.sources_among(new.rows.table["source"])
        if present and not replacing:
            more = f" and {len(present) - 1} more of its sources" if len(present) > 1 else ""
            raise SearchIndexError(
                f"the index has {printable(present[0])}{more} already: replace their rows with --add --replace, or "
                "remove them first"
            )
        content = _kept(old, set(present))
        replaced = old.head.rows - len(content.rows)
        for modality, flat in new.flat.items():
            vectors = flat.reconstruct_n(0, flat.ntotal)
            if modality in content.flat:
                content.flat[modality].add(vectors)
            else:
                content.flat[modality] = flat
            if modality in content.cells:
                content.cells[modality].add_with_ids(vectors, new.rows.ids[new.rows.has(modality)])
        content.rows = joined(content.rows, new.rows)
        return _write(folder, old.head, content), replaced


def remove(folder: Path, sources: Iterable[str]) -> tuple[Head, int]:
    """Removes all rows of sources.

    Returns:
        The new head, and the number of rows that were removed.

    Raises:
        SearchIndexError: the index has no row of one of the sources; nothing is removed then.
        OSError: the index cannot be written.
    """
    with changing(folder):
        old, wanted = open_index(folder), sorted(set(sources))
        present = set(old.rows.sources_among(pa.chunked_array([wanted], pa.string())))
        if absent := [source for source in wanted if source not in present]:
            more = f" and {len(absent) - 1} more" if len(absent) > 1 else ""
            raise SearchIndexError(f"the index has no source {printable(absent[0])}{more}; nothing was removed")
        content = _kept(old, present)
        removed = old.head.rows - len(content.rows)
        return _write(folder, old.head, content), removed


def grown(head: Head) -> list[str]:
    """Modalities that have several times the vectors from which their cells were computed."""
    return [name for name, s in head.structures.items() if s.trained_on and s.vectors > _GROWN * s.trained_on]


def _read(embeddings: Embeddings, *, first_id: int) -> _Content:
    """All rows, with ids from `first_id` on."""
    try:
        return _rows_of(embeddings, first_id=first_id)
    except (EmbeddingsError, NotFiniteError) as error:
        raise SearchIndexError(str(error)) from None


def _rows_of(embeddings: Embeddings, *, first_id: int) -> _Content:
    begin(f"reading {len(embeddings):,} rows of {embeddings.folder}")
    flat = {modality: faiss.IndexFlatIP(embeddings.dim) for modality in embeddings.modalities}
    names, tables, count = embeddings.label_columns, [], 0
    for batch in embeddings.batches(size=_BLOCK):
        columns: dict[str, Any] = {
            "id": np.arange(count, count + len(batch.sources)) + first_id,
            "source": pa.array(batch.sources, pa.string()),
            "start": batch.starts,
            "end": batch.ends,
        }
        if names:
            kind = pa.struct([(name, pa.string()) for name in names])
            columns["labels"] = pa.array(batch.labels, kind)
        for modality in MODALITIES:
            has = batch.present.get(modality, np.zeros(len(batch.sources), bool))
            columns[modality] = has
            if modality in flat and has.any():
                vectors, sources = batch.vectors[modality][has], np.asarray(batch.sources, object)[has]
                advice = "embed again with a run that has not diverged"
                require_finite(
                    vectors, f"the {modality} vectors", name=list(map(str, sources)).__getitem__, advice=advice
                )
                flat[modality].add(np.ascontiguousarray(vectors, np.float32))
        tables.append(pa.table(columns))
        count += len(batch.sources)
    if not tables:
        raise SearchIndexError(f"{embeddings.folder} has no rows")
    return _Content(rows=Rows(pa.concat_tables(tables).combine_chunks()), flat=_filled(flat))


def _kept(old: Index, gone: set[str]) -> _Content:
    """The content of an index without some sources."""
    begin(f"reading the {old.head.rows:,} rows of the index")
    content = _Content(rows=old.rows.without(gone) if gone else old.rows)
    for modality, vectors in old.vectors.items():
        removed = np.setdiff1d(vectors.ids, content.rows.ids, assume_unique=True)
        flat = read_faiss(old.folder / old.head.file(modality, "flat"))
        if len(removed):
            flat.remove_ids(np.searchsorted(vectors.ids, removed))
        content.flat[modality] = flat
        if vectors.cells is not None:
            cells = read_faiss(old.folder / old.head.file(modality, "ivfpq"))
            if len(removed):
                cells.remove_ids(removed)
            content.cells[modality] = cells
    content.flat = _filled(content.flat)
    return content


def _filled(flat: dict[str, Any]) -> dict[str, Any]:
    return {modality: index for modality, index in flat.items() if index.ntotal}


def _write(folder: Path, old: Head, content: _Content) -> Head:
    """Writes the content as the next generation, with cells where there are many vectors, and publishes it."""
    head = replace(old, generation=old.generation + 1, rows=len(content.rows), structures={})
    if len(content.rows):
        head = replace(head, next_id=max(old.next_id, int(content.rows.ids[-1]) + 1))
    content.rows.write(folder / head.file("rows", "arrow"))
    vectors = {}
    for modality, flat in content.flat.items():
        ids = content.rows.ids[content.rows.has(modality)]
        before = old.structures.get(modality)
        structure = Structure(kind="exact", vectors=len(ids))
        cells = content.cells.get(modality)
        write_faiss(flat, folder / head.file(modality, "flat"))
        found = Vectors(exact=flat, ids=ids, structure=structure)
        if cells is None and len(ids) > max(old.exact_up_to, SMALLEST - 1):
            cells = train(found)
            before = None
        if cells is not None:
            trained_on = before.trained_on if before else len(ids)
            structure = Structure(kind="ivfpq", vectors=len(ids), trained_on=trained_on)
            write_faiss(cells, folder / head.file(modality, "ivfpq"))
        vectors[modality] = replace(found, cells=cells, structure=structure)
    structures = {modality: found.structure for modality, found in vectors.items()}
    if any(found.cells is not None for found in vectors.values()):
        queries = sample_queries(vectors)
        structures |= {name: measure(found, queries) for name, found in vectors.items() if found.cells is not None}
    head = replace(head, structures=structures)
    begin("publishing the index")
    publish(folder, head)
    return head
