"""Recognises what a power failure, a broken disk or an edit has damaged in the output folder, and sets it aside."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any, BinaryIO

from common.files import make_folder, sync
from pipeline.shards.pieces import Piece, read_pieces
from pipeline.shards.tar_writer import END_OF_TAR, RowError, sample_row


def check_shard(shard: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Checks that the index `rows` of a shard cover it, and that it is neither missing nor cut off.

    Raises:
        RowError: one of these does not hold; the message says what is wrong.
        OSError: the shard cannot be read.
    """
    if not rows:
        if shard.exists():
            raise RowError("it is empty")
        return  # all samples were removed, and then the shard
    try:
        with shard.open("rb") as file:
            end, size = _end_of_samples(file, rows[-1]) + len(END_OF_TAR), file.seek(0, os.SEEK_END)
    except FileNotFoundError:
        raise RowError(f"{shard.name} is missing") from None
    except (tarfile.TarError, OverflowError):
        raise RowError(f"{shard.name} is cut off or overwritten") from None
    if end != size:
        raise RowError(f"{shard.name} has {size} bytes, but its last sample ends at {end - len(END_OF_TAR)}")


def read_whole(fragment: Path) -> tuple[list[Piece], list[dict[str, str]]] | None:
    """The samples and rejections of a fragment, as `read_pieces` finds them; None if any of them is damaged."""
    try:
        pieces, rejections = read_pieces(fragment)
        for piece in pieces:
            sample_row(io.BytesIO(piece.read()))
    except RowError:
        return None
    return pieces, rejections


def _end_of_samples(file: BinaryIO, row: Mapping[str, Any]) -> int:
    """Returns where the sample of `row` and all samples after it end, in bytes.

    Samples that were removed from the data set have no row, but are still in their shard.

    Raises:
        TarError: a member is damaged, or the last one is not the metadata of a sample.
    """
    video = row["video_offset"] + row["first_frame"] + sum(row["frame_bytes"])
    end = _blocks(max(video, row["audio_offset"] + 2 * row["audio_samples"]))
    name = ""
    while True:
        file.seek(end)
        block = file.read(tarfile.BLOCKSIZE)
        if not block.strip(b"\0"):
            break
        member = tarfile.TarInfo.frombuf(block, "utf-8", "strict")
        name = member.name
        end += tarfile.BLOCKSIZE + _blocks(member.size)
    if not name.endswith(".json"):
        raise tarfile.TarError(f"the last member is {name!r}")
    return end


def _blocks(size: int) -> int:
    return -(-size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE


def set_aside(out: Path, name: str) -> None:
    """Moves the shard `name` and its index to OUT/damaged. Nothing is deleted: its sources may be gone."""
    folder = out / "damaged"
    make_folder(folder)
    number = next(n for n in count() if not any(folder.glob(f"{name}.{n}.*")))
    # The index last: without it, a later run no longer looks at the shard.
    for path in (*out.glob(f"{name}.tar"), *sorted((out / "index").glob(f"{name}.*"), reverse=True)):
        path.rename(folder / f"{name}.{number}{path.suffix}")
    for changed in (folder, out / "index", out):
        sync(changed)
