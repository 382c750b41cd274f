"""Checks that the numbers of a manifest are possible: lengths, offsets within the shards, label codes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.shards.checksums import AUDIO_BLOCK

_ROWS = 2**14
"""Rows that are checked at once: so few that a check takes little memory however large the manifest is, and so many
that other threads compute meanwhile, because NumPy holds Python's lock only between its operations."""
Arrays = Mapping[str, NDArray[Any]]
Checks = Iterator[tuple[str, str, NDArray[np.bool_]]]
"""Yields the name of an array, what is wrong with it if any row fails, and bool [rows], which rows fail."""


def impossible_number(arrays: Arrays, meta: Mapping[str, Any], *, fps: float, offsets: bool) -> tuple[str, str] | None:
    """Finds the first number that no manifest can have.

    Args:
        arrays: the manifest's arrays, of the right types and lengths.
        meta: content of meta.json.
        fps: frame rate of the videos.
        offsets: whether frame_offsets, by far the largest array, is checked too.

    Returns:
        Name of the array and what is wrong with it; None if all numbers are possible.
    """
    columns = range(len(meta["label_columns"]))
    for text in ("source", *(f"label{column}_names" for column in columns)):
        start = arrays[f"{text}_start"]
        ends = (0, len(arrays[f"{text}_bytes"]))
        if not len(start) or (start[0], start[-1]) != ends or not _rises(arrays, f"{text}_start"):
            return f"{text}_start", "its offsets do not rise from 0 to the length of the text"
    shard_bytes = np.array(meta["shard_bytes"], dtype=np.int64)
    for first in range(0, meta["samples"], _ROWS):
        rows = slice(first, min(first + _ROWS, meta["samples"]))
        for name, what, wrong in _check_rows(arrays, rows, meta, shard_bytes, fps, offsets):
            if wrong.any():
                return name, f"{what}, first for sample {first + int(np.argmax(wrong))}"
    return None


def _rises(arrays: Arrays, name: str) -> bool:
    for first in range(0, len(arrays[name]) - 1, _ROWS):
        part = arrays[name][first : first + _ROWS + 1]  # fetched anew each time: see content.Reopened
        if (part[1:] < part[:-1]).any():
            return False
    return True


def _check_rows(
    a: Arrays, rows: slice, meta: Mapping[str, Any], shard_bytes: NDArray[np.int64], fps: float, offsets: bool
) -> Checks:
    """Each check relies on the ones before it."""
    shard, frames, samples = a["shard"][rows], a["frames"][rows].astype(np.int64), a["audio_samples"][rows]
    yield "shard", f"it has an index beyond the {len(shard_bytes)} shards", (shard < 0) | (shard >= len(shard_bytes))
    ends = shard_bytes[shard]
    video = frames > 0
    yield "frames", "it has a negative number", frames < 0
    start = a["frame_start"][rows.start : rows.stop + 1]
    wrong = np.diff(start) != np.where(video, frames + 1, 0)
    wrong[0] |= rows.start == 0 and start[0] != 0
    yield "frame_start", "it does not divide frame_offsets by the numbers of frames", wrong
    for side in ("width", "height"):
        pixels = a[side][rows]
        yield side, "it has a number that no video has", (pixels > 65535) | (pixels < video)
    place = a["video_offset"][rows]
    yield "video_offset", "it points outside the shard", (place < -1) | (place > ends) | (video & (place < 0))
    if offsets:
        yield (
            "frame_offsets",
            "it has impossible offsets",
            _wrong_offsets(a["frame_offsets"], start, ends - place, video),
        )
    yield "audio_samples", "it has an impossible number", (samples < 0) | (samples > ends // 2)
    length = np.rint(frames / fps * meta["sample_rate"])
    differs = video & (samples > 0) & (samples != length)
    yield "audio_samples", "its numbers differ from the lengths of the videos", differs
    place = a["audio_offset"][rows]
    wrong = (place < -1) | (place > ends - 2 * samples) | ((samples > 0) & (place < 0))
    yield "audio_offset", "it points outside the shard", wrong
    if "checksum_offset" in a:
        place = a["checksum_offset"][rows]
        units = frames - (-samples // AUDIO_BLOCK) + 1
        yield "checksum_offset", "it points outside the shard", (place < -1) | (place > ends - 4 * units)
    for column in range(len(meta["label_columns"])):
        codes, names = a[f"label{column}"][rows], len(a[f"label{column}_names_start"]) - 1
        yield f"label{column}", f"it has an index beyond {names} names", (codes < -1) | (codes >= names)


def _wrong_offsets(
    offsets: NDArray[np.uint32], start: NDArray[np.int64], room: NDArray[np.int64], video: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """Which samples have frame offsets that do not rise, or lie beyond the `room` of their shard in bytes."""
    wrong = np.zeros(len(room), dtype=bool)
    part = offsets[start[0] : start[-1]]
    falls = np.flatnonzero(part[1:] <= part[:-1]) + start[0] + 1
    owner = np.searchsorted(start, falls, side="right") - 1
    within = falls != start[owner]  # each sample's offsets start again at its first frame
    wrong[owner[within]] = True
    last = start[1:][video] - 1
    wrong[video] |= offsets[last] > room[video]
    return wrong
