"""The folder that embeddings are written to: one Parquet file per part, claims on parts, and the files at the end.

A part is complete once its file exists, because files are written atomically. So a killed run leaves nothing to repair,
and several processes, on one machine or several, share the work by claiming parts: a claim is a lock on one byte of the
file `.lock`, which the kernel releases when the process ends, however it ends.
"""

from __future__ import annotations

import fcntl
import json
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from common.files import file_sha256, make_folder, replacing, write_atomically, write_json_lines
from common.trees import flatten
from search.embeddings import (
    AT_END,
    KEY,
    META,
    UNREADABLE,
    Embeddings,
    EmbeddingsError,
    open_part,
    part_meta,
    part_name,
    read_meta,
)
from settings.load import format_value

UNREADABLE_KEY = b"cmacc.unreadable"
"""Key of a Parquet file's metadata that holds its lines of unreadable.jsonl, as a JSON list."""

log = logging.getLogger(__name__)


class EmbedError(Exception):
    """Embeddings cannot be made; the message is meant for the user."""


class Part(NamedTuple):
    """The content of a Parquet file: R rows, and the files that gave none."""

    number: int
    sources: list[str]
    start: np.ndarray
    """float64 [R]."""
    end: np.ndarray
    """float64 [R]."""
    labels: dict[str, list[str | None]]
    """Column -> [R] labels."""
    vectors: dict[str, np.ndarray]
    """Modality -> unit vectors, float32 [R, D]."""
    present: dict[str, np.ndarray]
    """Modality -> which rows have a vector, bool [R]."""
    unreadable: list[dict[str, str]]
    """Source and reason of each unreadable file."""


class Store:
    """The parts in a folder.

    Args:
        out: the folder; it is created if missing.
        parts: number of parts when all are complete.
        meta: embeddings.json without the keys AT_END; equal for all processes that share the work.

    Raises:
        EmbedError: the folder holds embeddings of another model, source or setting.
        OSError: the folder cannot be written.
    """

    def __init__(self, out: Path, *, parts: int, meta: Mapping[str, Any]) -> None:
        self.out, self.parts, self.meta = out, parts, dict(meta)
        self._complete: set[int] = set()
        self._sha256: dict[int, str] = {}
        """SHA-256 of the parts, if they were all complete before."""
        make_folder(out)
        self._require_same_work()
        self._lock = (out / ".lock").open("w")

    def missing(self) -> list[int]:
        """The parts that are not complete."""
        return [number for number in range(self.parts) if not self._is_complete(number)]

    def claim(self, number: int) -> bool:
        """Claims a part for this process; False if it is complete or another process works on it."""
        try:
            fcntl.lockf(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, number)
        except OSError:
            return False
        if self._is_complete(number):
            self._release(number)
            return False
        # Left by a process that was killed: nobody else works on this part now.
        for unfinished in self.out.glob(f".{part_name(number)}.*.tmp"):
            unfinished.unlink(missing_ok=True)
        return True

    def write(self, part: Part) -> None:
        """Writes a part that this process has claimed.

        Raises:
            OSError: the disk is full or not writable.
        """
        write_part(self.out, part, self.meta)
        self.complete(part.number)

    def complete(self, number: int) -> None:
        """Notes that a part that this process has claimed is written."""
        self._complete.add(number)
        self._release(number)

    def finish(self, *, npy: bool) -> dict[str, Any]:
        """Writes the lists and, last of all, embeddings.json; returns its contents. All parts must be complete."""
        rows, unreadable, hashes = 0, list[dict[str, str]](), list[str]()
        for number in range(self.parts):
            path = self.out / part_name(number)
            with open_part(path) as file:
                rows += file.metadata.num_rows
                unreadable += json.loads((file.schema_arrow.metadata or {})[UNREADABLE_KEY])
            hashes.append(file_sha256(path))
        meta = {**self.meta, **dict(zip(AT_END, (rows, len(unreadable), hashes), strict=True))}
        write_json_lines(self.out / UNREADABLE, unreadable, durable=True)
        if npy:
            write_npy(Embeddings(self.out, meta))
        write_atomically(self.out / META, json.dumps(meta, indent=1) + "\n", durable=True)
        self.close()
        (self.out / ".lock").unlink(missing_ok=True)
        return meta

    def close(self) -> None:
        """Releases all claims."""
        self._lock.close()

    def _release(self, number: int) -> None:
        fcntl.lockf(self._lock, fcntl.LOCK_UN, 1, number)

    def _is_complete(self, number: int) -> bool:
        path = self.out / part_name(number)
        if number not in self._complete and path.exists():
            try:
                with open_part(path) as file:
                    part_meta(file, path)
                if number not in self._sha256 or file_sha256(path) == self._sha256[number]:
                    self._complete.add(number)
                    return True
            except EmbeddingsError:
                pass
            log.warning("%s is damaged and is made again", path)
        return number in self._complete

    def _require_same_work(self) -> None:
        """Raises EmbedError if the folder holds other embeddings than these; the message says what differs."""
        if (self.out / META).exists():
            try:
                found = read_meta(self.out)
            except EmbeddingsError as error:
                log.warning("%s", error)  # it is made again from the parts
            else:
                self._compare({key: value for key, value in found.items() if key not in AT_END})
                self._sha256 = dict(enumerate(found["part_sha256"]))
                return
        for path in sorted(self.out.glob("rows-*.parquet")):
            try:
                with open_part(path) as file:
                    self._compare(part_meta(file, path))
            except EmbeddingsError:
                continue  # `_is_complete` says so, and the part is made again

    def _compare(self, found: dict[str, Any]) -> None:
        old, new = flatten(found), flatten(self.meta)
        differing = [
            f"  {key}: {format_value(old.get(key))} there, {format_value(new.get(key))} now"
            for key in sorted(old.keys() | new.keys())
            if old.get(key) != new.get(key)
        ]
        if differing:
            raise EmbedError(
                f"{self.out} holds embeddings that were made differently:\n"
                + "\n".join(differing)
                + "\nuse the same run, source, settings and versions, or another folder"
            )


def write_part(out: Path, part: Part, meta: Mapping[str, Any]) -> None:
    """Writes the file of a part; `meta` is embeddings.json without the keys AT_END.

    Raises:
        OSError: the disk is full or not writable.
    """
    metadata = {KEY: json.dumps(meta), UNREADABLE_KEY: json.dumps(part.unreadable, ensure_ascii=False)}
    table = _table(part, dim=meta["model"]["dim"]).replace_schema_metadata(metadata)
    texts = [name for name in table.schema.names if name not in part.vectors]
    with replacing(out / part_name(part.number), durable=True) as unfinished:
        # Vectors hardly get smaller by compression, and no value of theirs repeats.
        pq.write_table(table, unfinished, compression="none", use_dictionary=texts)


def _table(part: Part, *, dim: int) -> pa.Table:
    columns: dict[str, pa.Array] = {
        "source": pa.array(part.sources, pa.string()),
        "start": pa.array(part.start, pa.float64()),
        "end": pa.array(part.end, pa.float64()),
    }
    if part.labels:
        texts = [pa.array(values, pa.string()) for values in part.labels.values()]
        columns["labels"] = pa.StructArray.from_arrays(texts, names=list(part.labels))
    for modality, vectors in part.vectors.items():
        absent = pa.array(~part.present[modality])
        flat = pa.array(np.ascontiguousarray(vectors, np.float32).reshape(-1))
        columns[modality] = pa.FixedSizeListArray.from_arrays(flat, dim, mask=absent)
    return pa.table(columns)


def write_npy(embeddings: Embeddings) -> None:
    """Writes the vectors of each modality as MODALITY.npy, float32 [N, D]; rows without a vector are zeros."""
    for modality in embeddings.modalities:
        with (
            replacing(embeddings.folder / f"{modality}.npy", durable=True) as unfinished,
            unfinished.open("wb") as file,
        ):
            shape = (len(embeddings), embeddings.dim)
            header = {"descr": "<f4", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, header)
            for batch in embeddings.batches():
                file.write(np.ascontiguousarray(batch.vectors[modality]).data)


def ordered(numbers: list[int], *, rank: int, size: int) -> Iterator[int]:
    """The parts in the order in which a process tries them: its own share first, then those of the others."""
    for share in range(size):
        yield from numbers[(rank + share) % size :: size]
