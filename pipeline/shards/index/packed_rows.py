"""The rows of a shard's index as packed columns: a line of JSON that names the arrays, then the arrays.

The line is `{"rows": n, "columns": [[name, dtype, length], ...], "sha256": "...", "crc32c": CRC}`, where `sha256` is
that of all bytes after it, and `crc32c` the checksum of the line itself (see `index_line`). Numbers have the smallest
unsigned type that holds them, or int64. A column NAME of texts is two arrays: NAME, the UTF-8 bytes of all texts one
after the other, and NAME_length, the number of bytes of each. If all its texts are hexadecimal digits of one length, it
is one array, NAME_hex, of the bytes that the digits stand for. The columns `labels` and `other` (all further keys of a
row) have few different values per shard. Each holds every different value once, as JSON text, and the array NAME_code
holds the index of each row's value.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.shards.checksums import index_line, read_index_line
from pipeline.shards.index.merging import RowBlock
from pipeline.shards.manifest import COLUMNS
from pipeline.shards.tar_writer import RowError

NUMBERS = (
    *("size", "mtime_ns", "video_offset", "audio_offset", "checksum_offset"),
    *("audio_samples", "width", "height", "first_frame"),
)
"""Keys of a row that are whole numbers, each an array of n values."""
_HEX = re.compile(r"(?:[0-9a-f]{2})+")
_TYPES = ("<u1", "<u2", "<u4", "<i8", "<f8")
"""The types of the arrays: little-endian numbers."""


class PackedRows:
    """The rows of one shard, read from what `pack` returns.

    Attributes:
        count: number of rows.
        arrays: the arrays by name; see the docstring of this module.
        labels: the different labels; row i has labels[arrays["labels_code"][i]].
        others: the different values of all further keys; row i has others[arrays["other_code"][i]].

    Raises:
        RowError: `data` is damaged.
    """

    def __init__(self, data: bytes) -> None:
        head, newline, body = data.partition(b"\n")
        try:
            header = read_index_line(head)
            # The line must have its own checksum: `read_index_line` accepts lines without one, for format 1.
            if not newline or b', "crc32c": ' not in head or sha256(body).hexdigest() != header["sha256"]:
                raise RowError("its content differs from its checksum")
            self.count: int = header["rows"]
            self.arrays: dict[str, NDArray[Any]] = {}
            place = 0
            for name, kind, length in header["columns"]:
                if kind not in _TYPES:
                    raise RowError(f"it has a column of the type {kind!r}")
                self.arrays[name] = np.frombuffer(body, np.dtype(kind), length, place)
                place += self.arrays[name].nbytes
            self.labels: list[dict[str, str]] = [json.loads(text) for text in self.texts("labels")]
            self.others: list[dict[str, Any]] = [json.loads(text) for text in self.texts("other")]
            if place != len(body) or any(len(self.arrays[name]) != self.count for name in (*NUMBERS, "frames")):
                raise RowError("its columns differ in length")
        except RowError:
            raise
        except (KeyError, TypeError, ValueError, RecursionError) as error:
            raise RowError(f"it cannot be read: {' '.join(str(error).split())}") from None

    def texts(self, name: str) -> list[str]:
        """Returns the texts of a column.

        `key`, `source` and, if all rows have one, `sha256` have one text per row; `labels` and `other` one per value.
        """
        if f"{name}_hex" in self.arrays:
            digits = self.arrays[f"{name}_hex"].tobytes().hex()
            width = len(digits) // self.count
            return [digits[place : place + width] for place in range(0, len(digits), width)]
        data = self.arrays[name].tobytes()
        ends = np.cumsum(self.arrays[f"{name}_length"], dtype=np.int64).tolist()
        return [data[begin:end].decode("utf-8") for begin, end in itertools.pairwise([0, *ends])]

    def has_text(self, name: str) -> bool:
        """Whether there is a text column of this name."""
        return f"{name}_hex" in self.arrays or f"{name}_length" in self.arrays

    def rows(self, first: int = 0) -> Iterator[dict[str, Any]]:
        """Yields the rows as they were packed, from number `first` on.

        Rows with equal labels or further keys share these values, which must not be changed.
        """
        columns = [self.arrays[name][first:].tolist() for name in (*NUMBERS, "seconds")]
        ends = np.cumsum(self.arrays["frames"], dtype=np.int64).tolist()
        begin = ends[first - 1] if first else 0
        sizes = self.arrays["frame_bytes"][begin:].tolist()
        rows = zip(self.versions(first=first), ends[first:], *columns, strict=True)
        start = begin
        for version, end, *numbers in rows:
            frames = {"frame_bytes": sizes[start - begin : end - begin]}
            yield dict(zip((*NUMBERS, "seconds"), numbers, strict=True)) | frames | version
            start = end

    def versions(self, last: int | None = None, *, first: int = 0) -> Iterator[dict[str, Any]]:
        """Yields rows `first` to `last` - 1 without the numbers and frame sizes that describe their tracks."""
        part = slice(first, last)
        names = [name for name in ("key", "source", "sha256") if self.has_text(name)]
        columns: list[list[Any]] = [self.texts(name)[part] for name in names]
        columns += [self.arrays[name][part].tolist() for name in ("size", "mtime_ns")]
        names += ["size", "mtime_ns"]
        codes = self.arrays["labels_code"][part].tolist(), self.arrays["other_code"][part].tolist()
        for labels, other, *values in zip(*codes, *columns, strict=True):
            row = dict(zip(names, values, strict=True))
            row["labels"] = self.labels[labels]
            yield row | self.others[other]

    def block(self, *, shard: int) -> RowBlock:
        """Returns the rows for a manifest in which their shard has the number `shard`."""
        frames = self.arrays["frames"].astype(np.int64)
        sizes = self.arrays["frame_bytes"]
        ends = np.cumsum(frames)
        # The offsets of a sample are the running sum of its first frame's offset and the sizes of its frames. One sum
        # goes over all samples: at the first offset of each, it steps from the end of the one before to the new offset.
        counts = np.where(frames > 0, frames + 1, 0)
        steps = np.zeros(int(counts.sum()), np.int64)
        first = (np.cumsum(counts) - counts)[frames > 0]
        is_size = np.ones(len(steps), dtype=bool)
        is_size[first] = False
        steps[is_size] = sizes
        totals = np.add.reduceat(sizes, (ends - frames)[frames > 0], dtype=np.int64) if len(first) else first
        starts = self.arrays["first_frame"][frames > 0].astype(np.int64)
        steps[first] = starts
        steps[first[1:]] -= (starts + totals)[:-1]
        columns = {name: self.arrays[name] for name in COLUMNS if name in NUMBERS}
        columns |= {"shard": np.full(self.count, shard), "frames": frames}
        return RowBlock(
            columns=columns,
            frame_counts=counts,
            frame_offsets=np.cumsum(steps),
            sources=[text.encode("utf-8") for text in self.texts("source")],
            labels=self.labels,
            label_codes=self.arrays["labels_code"],
        )


def packed_digest(path: Path) -> str:
    """Identifies the content of a file that holds packed rows; reads only its first line.

    Raises:
        ValueError, KeyError, TypeError: that line is damaged.
    """
    with path.open("rb") as file:
        return str(read_index_line(file.readline())["sha256"])


def pack(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """Packs at least one row; each is one that `checked_row` accepts, with key, size and mtime_ns."""
    arrays: dict[str, NDArray[Any]] = {name: _smallest([row[name] for row in rows]) for name in NUMBERS}
    arrays["seconds"] = np.array([row["seconds"] for row in rows], "<f8")
    arrays["frames"] = _smallest([len(row["frame_bytes"]) for row in rows])
    arrays["frame_bytes"] = _smallest([size for row in rows for size in row["frame_bytes"]])
    texts = ["key", "source"]
    if all(isinstance(row.get("sha256"), str) for row in rows):
        texts.append("sha256")
    for name in texts:
        arrays |= _text_column(name, [row[name] for row in rows])
    known = {*NUMBERS, *texts, "seconds", "frame_bytes", "labels"}
    arrays |= _coded_column("labels", [row["labels"] for row in rows])
    arrays |= _coded_column("other", [{name: row[name] for name in row if name not in known} for row in rows])
    body = b"".join(values.tobytes() for values in arrays.values())
    columns = [[name, values.dtype.str.replace("|", "<"), len(values)] for name, values in arrays.items()]
    return (
        index_line({"rows": len(rows), "columns": columns, "sha256": sha256(body).hexdigest()}).encode("utf-8") + body
    )


def _smallest(values: Sequence[int]) -> NDArray[Any]:
    """Returns the values in the smallest unsigned type that holds them, or as int64."""
    array = np.array(values, "<i8")
    low, high = int(array.min(initial=0)), int(array.max(initial=0))
    types = (kind for kind in ("<u1", "<u2", "<u4", "<i8") if np.iinfo(kind).min <= low and high <= np.iinfo(kind).max)
    return array.astype(next(types))


def _text_column(name: str, texts: Sequence[str]) -> dict[str, NDArray[Any]]:
    width = len(texts[0]) if texts else 0
    if width and all(len(text) == width and _HEX.fullmatch(text) for text in texts):
        return {f"{name}_hex": np.frombuffer(bytes.fromhex("".join(texts)), "<u1")}
    encoded = [text.encode("utf-8") for text in texts]
    return {name: np.frombuffer(b"".join(encoded), "<u1"), f"{name}_length": _smallest([len(one) for one in encoded])}


def _coded_column(name: str, values: Sequence[Mapping[str, Any]]) -> dict[str, NDArray[Any]]:
    codes: dict[str, int] = {}
    numbers = [codes.setdefault(json.dumps(value, ensure_ascii=False), len(codes)) for value in values]
    return {**_text_column(name, list(codes)), f"{name}_code": _smallest(numbers)}
