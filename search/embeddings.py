"""The embeddings that `python -m search.embed` writes, and how to read them.

OUT/embeddings.json          what the folder holds; written last, so it exists only if everything else does
OUT/rows-00000.parquet ...   the rows, in the order of the files' names: source, start, end, labels, video, audio
OUT/unreadable.jsonl         files without rows (or, of damaged shards, without some rows), and why
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from common.files import file_sha256, read_json_lines
from search.packages import require_packages, require_utf8

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

FORMAT = 1
"""Version of the format."""
META = "embeddings.json"
UNREADABLE = "unreadable.jsonl"
AT_END = ("rows", "unreadable", "part_sha256")
"""Keys of embeddings.json whose values are known only when all parts are complete."""
KEY = b"cmacc"
"""Key of the Parquet files' metadata that holds embeddings.json without the keys AT_END."""
MODALITIES = ("video", "audio")
BATCH_ROWS = 1024
"""Largest number of rows that are read at once, by default."""


class EmbeddingsError(ValueError):
    """A folder of embeddings is missing, incomplete or damaged; the message is meant for the user."""


@dataclass(frozen=True, kw_only=True)
class RowBatch:
    """R rows; a modality that the embeddings lack is absent from `vectors`."""

    first: int
    """Number of the first row, counted over the whole folder from 0."""
    sources: list[str]
    """[R] paths of the files, as in the data set, or relative to the folder of videos."""
    starts: np.ndarray
    """float64 [R], start of the row's window in seconds."""
    ends: np.ndarray
    """float64 [R], end of the window in seconds."""
    labels: list[dict[str, str | None]]
    """[R] label column -> label, None if it is unknown; empty without labels."""
    vectors: dict[str, np.ndarray]
    """Modality -> unit vectors, float32 [R, D]; a row of zeros where the file lacks the stream."""
    present: dict[str, np.ndarray]
    """Modality -> which rows have a vector, bool [R]."""


class Embeddings:
    """The embeddings in a folder; see `open_embeddings`.

    Attributes:
        folder: the folder.
        meta: contents of embeddings.json.
        modalities: the streams that were embedded.
        dim: length D of the vectors.
        label_columns: names of the label columns.
    """

    def __init__(self, folder: Path, meta: dict[str, Any]) -> None:
        self.folder, self.meta = folder, meta
        self.modalities: tuple[str, ...] = tuple(meta["model"]["modalities"])
        self.dim: int = meta["model"]["dim"]
        self.label_columns: list[str] = list(meta["labels"])

    def __len__(self) -> int:
        """Number of rows."""
        return self.meta["rows"]

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the encoders (search.encoders.fingerprint)."""
        return self.meta["model"]["fingerprint"]

    def parts(self) -> list[Path]:
        """The Parquet files, in order."""
        return [self.folder / part_name(number) for number in range(self.meta["parts"])]

    def batches(self, *, size: int = BATCH_ROWS, vectors: bool = True) -> Iterator[RowBatch]:
        """Yields all rows in order, at most `size` at a time; only these are in memory.

        Args:
            vectors: whether to read the vectors; without them only sources, times and labels are read.

        Raises:
            EmbeddingsError: a file is missing or damaged, or not of these embeddings.
        """
        first = 0
        for path, sha256 in zip(self.parts(), self.meta["part_sha256"], strict=True):
            with open_part(path) as file:
                require_same(self.meta, part_meta(file, path), path)
                if file_sha256(path) != sha256:
                    raise damaged(path, ValueError(f"its SHA-256 differs from {META}"))
                columns = [name for name in file.schema_arrow.names if vectors or name not in MODALITIES]
                try:
                    for table in file.iter_batches(batch_size=size, columns=columns):
                        yield self._row_batch(table, first)
                        first += len(table)
                except (OSError, ValueError) as error:
                    raise damaged(path, error) from None
        if first != len(self):
            raise damaged(self.folder / META, ValueError(f"the parts hold {first} rows, not {len(self)}"))

    def unreadable(self) -> list[dict[str, str]]:
        """The files that could not be read: source and reason of each."""
        try:
            return read_json_lines(self.folder / UNREADABLE)
        except (OSError, ValueError) as error:
            raise damaged(self.folder / UNREADABLE, error) from None

    def _row_batch(self, table: pa.RecordBatch, first: int) -> RowBatch:
        present, vectors = {}, {}
        for modality in self.modalities:
            if modality in table.schema.names:
                column = table.column(modality)
                present[modality] = column.is_valid().to_numpy(zero_copy_only=False)
                vectors[modality] = np.zeros((len(table), self.dim), np.float32)
                # `flatten` leaves out the rows without a vector.
                vectors[modality][present[modality]] = column.flatten().to_numpy().reshape(-1, self.dim)
        has_labels = "labels" in table.schema.names
        return RowBatch(
            first=first,
            sources=table.column("source").to_pylist(),
            starts=table.column("start").to_numpy(),
            ends=table.column("end").to_numpy(),
            labels=table.column("labels").to_pylist() if has_labels else [{} for _ in range(len(table))],
            vectors=vectors,
            present=present,
        )


def open_embeddings(folder: str | Path) -> Embeddings:
    """Opens the embeddings in a folder; rows are read by `Embeddings.batches`.

    Raises:
        MissingPackage: pyarrow is not installed.
        EmbeddingsError: the folder holds no complete embeddings, or embeddings.json is damaged or of another format.
    """
    require_packages("pyarrow")
    folder = Path(folder)
    embeddings = Embeddings(folder, read_meta(folder))
    for path in embeddings.parts():
        if not path.is_file():
            raise EmbeddingsError(f"{path} is missing; run the search.embed command again, which makes it again")
    return embeddings


def read_meta(folder: Path) -> dict[str, Any]:
    """Reads and checks embeddings.json; needs neither pyarrow nor torch.

    Raises:
        EmbeddingsError: see `open_embeddings`.
        OSError: the path is not UTF-8.
    """
    require_utf8(folder)
    path = folder / META
    try:
        meta = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        found = "unfinished embeddings" if any(folder.glob("rows-*.parquet")) else "no embeddings"
        advice = "run the same command again" if found.startswith("un") else "make some"
        raise EmbeddingsError(f"{folder} holds {found}; {advice}: python -m search.embed RUN SRC {folder}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise damaged(path, error) from None
    try:
        if meta["format"] != FORMAT:
            raise EmbeddingsError(f"{path} has format {meta['format']!r}, but this version reads {FORMAT}")
        counts = (meta["rows"], meta["parts"], meta["unreadable"], meta["model"]["dim"])
        lists = (meta["labels"], meta["model"]["modalities"], meta["part_sha256"])
        if any(type(count) is not int or count < 0 for count in counts) or not all(type(i) is list for i in lists):
            raise ValueError("a count or a list has another type")
        names = (meta["model"]["run"], meta["model"]["fingerprint"])
        if not set(meta["model"]["modalities"]) <= set(MODALITIES) or any(type(name) is not str for name in names):
            raise ValueError("the model is not described")
        if type(meta["source"]) is not dict:
            raise ValueError("the source is not described")
        if len(meta["part_sha256"]) != meta["parts"]:
            raise ValueError("part_sha256 has another length than parts")
    except EmbeddingsError:
        raise
    except (KeyError, TypeError, ValueError) as error:
        raise damaged(path, error) from None
    return meta


def part_name(number: int) -> str:
    """Name of the Parquet file of part `number`."""
    return f"rows-{number:05d}.parquet"


def open_part(path: Path) -> pq.ParquetFile:
    """Opens a Parquet file.

    Raises:
        EmbeddingsError: the file is missing or damaged.
    """
    import pyarrow.lib
    import pyarrow.parquet as pq

    try:
        return pq.ParquetFile(path)
    except FileNotFoundError:
        raise EmbeddingsError(f"{path} is missing; run the search.embed command again, which makes it again") from None
    except (OSError, ValueError, pyarrow.lib.ArrowException) as error:
        raise damaged(path, error) from None


def part_meta(file: pq.ParquetFile, path: Path) -> dict[str, Any]:
    """What a Parquet file says about its embeddings: embeddings.json without the keys AT_END."""
    try:
        return json.loads((file.schema_arrow.metadata or {})[KEY])
    except (KeyError, ValueError) as error:
        raise damaged(path, error) from None


def require_same(meta: dict[str, Any], of_part: dict[str, Any], path: Path) -> None:
    """Raises EmbeddingsError unless a part belongs to the embeddings that `meta` describes."""
    if any(meta.get(key) != value for key, value in of_part.items()):
        raise EmbeddingsError(
            f"{path} belongs to other embeddings than {META} describes; make them again in an empty folder"
        )


def damaged(path: Path, error: Exception) -> EmbeddingsError:
    """Returns the error that says that a file of a folder of embeddings is damaged."""
    found = " ".join(f"{type(error).__name__}: {error}".split())
    return EmbeddingsError(f"{path} is damaged ({found}); run the search.embed command again, which makes it again")
