"""Recognises what a power failure, a broken disk or an edit has damaged in the output folder, and sets it aside."""

from __future__ import annotations

import tarfile
from collections.abc import Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any

from common.files import make_folder, sync
from pipeline.shards.tar_writer import END_OF_TAR, RowError, sample_row

_BLOCK = tarfile.BLOCKSIZE


def check_shard(shard: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Checks that the index `rows` of a shard cover it, and that it is neither missing nor cut off.

    Raises:
        RowError: they do not; the message says what is wrong.
        OSError: the shard cannot be read.
    """
    if not rows:
        raise RowError("it is empty")
    try:
        with shard.open("rb") as file:
            size = file.seek(0, 2)
            last = _blocks(_end_of_tracks(rows[-1]))
            file.seek(last)
            metadata = tarfile.TarInfo.frombuf(file.read(_BLOCK), "utf-8", "strict")
    except FileNotFoundError:
        raise RowError(f"{shard.name} is missing") from None
    except (tarfile.TarError, OverflowError):
        raise RowError(f"{shard.name} is cut off or overwritten") from None
    expected = last + _BLOCK + _blocks(metadata.size) + len(END_OF_TAR)
    if size != expected:
        raise RowError(f"{shard.name} has {size} bytes and not {expected}")


def _end_of_tracks(row: Mapping[str, Any]) -> int:
    video = row["video_offset"] + row["first_frame"] + sum(row["frame_bytes"])
    return max(video, row["audio_offset"] + 2 * row["audio_samples"])


def _blocks(size: int) -> int:
    return -(-size // _BLOCK) * _BLOCK


def is_whole(fragment: Path) -> bool:
    """Whether the file is a complete sample as `sample_bytes` writes it."""
    try:
        with fragment.open("rb") as file:
            row = sample_row(file)
            size = file.seek(0, 2)
            last = _blocks(_end_of_tracks(row))
            file.seek(last)
            return size == last + _BLOCK + _blocks(tarfile.TarInfo.frombuf(file.read(_BLOCK), "utf-8", "strict").size)
    except (RowError, tarfile.TarError):
        return False


def set_aside(out: Path, name: str) -> None:
    """Moves the shard `name` and its index to OUT/damaged. Nothing is deleted: its sources may be gone."""
    folder = out / "damaged"
    make_folder(folder)
    number = next(n for n in count() if not any(folder.glob(f"{name}.{n}.*")))
    # The index last: without it, a later run no longer looks at the shard.
    for path in (out / f"{name}.tar", out / "index" / f"{name}.jsonl"):
        if path.exists():
            path.rename(folder / f"{name}.{number}{path.suffix}")
    for changed in (folder, out / "index", out):
        sync(changed)
