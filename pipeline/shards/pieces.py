"""Fragments of several samples: the tar members of one sample after the other, and a list of what was rejected."""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

_REJECTED = "rejected"
"""Suffix of the member that lists the rejections."""


class RowError(ValueError):
    """A sample is damaged, or preparation cannot have written its metadata; the message says what is wrong."""


class Piece(NamedTuple):
    """A sample in a fragment.

    Attributes:
        offset, size: its bytes in the file `path`.
        key: what its members are named by.
        item: fragment (#t=START,END) of the item that it is a window of, empty for the whole file; None for an item.
        windows: number of windows of its item.
    """

    path: Path
    offset: int
    size: int
    key: str
    item: str | None
    windows: int = 1

    def read(self) -> bytes:
        """Its bytes: a tar file without its end."""
        with self.path.open("rb") as file:
            file.seek(self.offset)
            return file.read(self.size)


def rejections_member(key: str, rejections: Sequence[Mapping[str, str]]) -> bytes:
    """Packs rejections (item, reason, detail) as the last member of the fragment of the file `key`."""
    data = json.dumps(list(rejections), ensure_ascii=False).encode("utf-8")
    buffer = io.BytesIO()
    archive = tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT)  # noqa: SIM115
    member = tarfile.TarInfo(f"{key}.{_REJECTED}")
    member.size = len(data)
    archive.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def read_pieces(path: Path) -> tuple[list[Piece], list[dict[str, str]]]:
    """Finds the samples of a fragment by the headers of its members, and reads its rejections.

    Raises:
        RowError: the fragment is damaged.
    """
    pieces: list[Piece] = []
    rejections: list[dict[str, str]] = []
    start = end = 0
    try:
        with path.open("rb") as file, tarfile.open(fileobj=file, mode="r:") as archive:
            for member in archive:
                end = member.offset_data + -(-member.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
                key, _, suffix = member.name.rpartition(".")
                if suffix == _REJECTED:
                    rejections = json.loads(_content(archive, member))
                elif suffix == "json":
                    item = json.loads(_content(archive, member)).get("item")
                    pieces.append(Piece(path, start, end - start, key, item))
                if suffix in (_REJECTED, "json"):
                    start = end
            size = file.seek(0, os.SEEK_END)
    except (tarfile.TarError, ValueError, AttributeError, TypeError, EOFError, RecursionError) as error:
        raise RowError(" ".join(str(error).split())) from None
    if start != end or end != size or not end:
        raise RowError(f"it has {size} bytes, but its samples end at {start}")
    windows = Counter(piece.item for piece in pieces)
    return [piece._replace(windows=1 if piece.item is None else windows[piece.item]) for piece in pieces], rejections


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    content = archive.extractfile(member)
    return content.read() if content is not None else b""
