"""Tar shards: packs a sample's tracks as tar members and finds the byte offset of each track."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from pipeline.shards.checksums import sample_checksums
from pipeline.shards.codecs import CODECS, VideoBlob
from pipeline.shards.pieces import Piece
from pipeline.shards.pieces import RowError as RowError
from pipeline.shards.wav import WAV_HEADER_BYTES, wav_bytes
from settings import PrepareConfig
from settings.load import format_value

END_OF_TAR = bytes(2 * tarfile.BLOCKSIZE)
"""The two zero blocks that end a tar archive."""


@dataclass(frozen=True, kw_only=True)
class NormalisedMedia:
    """A sample's tracks on a common time line.

    Time 0 is the presentation time of the first video frame or, with streams=audio, of the first audio sample.

    Attributes:
        video: encoded video track; None with streams=audio.
        pcm: int16 [samples], mono; None with streams=video. With both tracks,
            samples == round(frames / fps * sample_rate).
        flags: unusual properties of the source; empty for an ordinary one. Keys: decode_errors (packets),
            ends_early_seconds, cut_at_max_seconds, still_picture, picture_held_seconds, silence_added_seconds,
            stamps_run_backwards, clock_restarts, lost_seconds, interlaced, size_changes, orientation_changes,
            tilted_degrees, cropped_to_aspect, not_finite_samples, out_of_range_samples, clipped_share,
            segment_cut_seconds.
    """

    video: VideoBlob | None
    pcm: NDArray[np.int16] | None
    flags: dict[str, Any]


def sample_bytes(
    media: NormalisedMedia,
    *,
    key: str,
    source: str,
    labels: Mapping[str, str],
    config: PrepareConfig,
    sha256: str = "",
    part: Mapping[str, Any] | None = None,
) -> bytes:
    """Packs a sample as tar members KEY.ivf or KEY.mjpeg, KEY.wav, KEY.crc32c and KEY.json, without END_OF_TAR.

    KEY.crc32c holds checksums (see pipeline.shards.checksums) and KEY.json the metadata.

    Args:
        sha256: hash of the source file, which later identifies it if it was moved or renamed; "" if unknown.
        part: more metadata of a sample that is a part of a file: file, start, end and, for a window, item.
    """
    buffer = io.BytesIO()
    # Not closed: that would write the end-of-archive blocks, but a shard joins many samples into one archive.
    archive = tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT)  # noqa: SIM115

    def add(suffix: str, data: bytes) -> None:
        member = tarfile.TarInfo(f"{key}.{suffix}")
        member.size = len(data)
        archive.addfile(member, io.BytesIO(data))

    metadata: dict[str, Any] = {"source": source, "sha256": sha256, "labels": dict(labels), "flags": media.flags}
    metadata |= part or {}
    frames, frame_bytes, sound = memoryview(b""), list[int](), memoryview(b"")
    if media.video is not None:
        video, fps = media.video, float(config.storage.fps)
        frames, frame_bytes = memoryview(video.data)[video.first_frame :], video.frame_bytes
        add(CODECS[config.storage.codec].suffix, video.data)
        metadata |= {"seconds": len(video.frame_bytes) / fps, "fps": fps, "frames": len(video.frame_bytes)}
        metadata |= {"width": video.width, "height": video.height}
        metadata |= {"first_frame": video.first_frame, "frame_bytes": video.frame_bytes}
    if media.pcm is not None:
        wav = wav_bytes(media.pcm, config.sample_rate)
        sound = memoryview(wav)[WAV_HEADER_BYTES:]
        add("wav", wav)
        metadata.setdefault("seconds", len(media.pcm) / config.sample_rate)
        metadata |= {"sample_rate": config.sample_rate, "audio_samples": len(media.pcm)}
    metadata_json = json.dumps(metadata, ensure_ascii=False).encode("utf-8")
    add("crc32c", sample_checksums(frames, frame_bytes, sound, metadata_json))
    add("json", metadata_json)
    return buffer.getvalue()


def sample_row(file: BinaryIO) -> dict[str, Any]:
    """Reads the metadata that `sample_bytes` wrote, and adds the byte offset in the file of each track and checksum.

    Raises:
        RowError: the file is damaged (if it has checksums, they are compared), or `sample_bytes` did not write it.
    """
    video_suffixes = {codec.suffix for codec in CODECS.values()}
    row: dict[str, Any] = {"video_offset": -1, "audio_offset": -1, "audio_samples": 0}
    row |= {"width": 0, "height": 0, "first_frame": 0, "frame_bytes": []}
    checksums, metadata_json = None, b""
    try:
        with tarfile.open(fileobj=file, mode="r:") as archive:
            for member in archive:
                suffix = member.name.rpartition(".")[2]
                if not member.isreg():
                    raise RowError(f"its member {format_value(member.name)} is not a regular file")
                if suffix in video_suffixes:
                    row["video_offset"] = member.offset_data
                elif suffix == "wav":
                    row["audio_offset"] = member.offset_data + WAV_HEADER_BYTES
                elif suffix == "crc32c":
                    row["checksum_offset"], checksums = member.offset_data, _content(archive, member)
                elif suffix == "json":
                    metadata_json = _content(archive, member)
                    row |= json.loads(metadata_json)
    except RowError:
        raise
    except (tarfile.TarError, ValueError, TypeError, OverflowError, OSError, EOFError, RecursionError) as error:
        raise RowError(" ".join(str(error).split())) from None
    checked_row(row)
    if checksums is not None:
        _check_units(file, row, checksums, metadata_json)
    return row


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    content = archive.extractfile(member)
    return content.read() if content is not None else b""


def _check_units(file: BinaryIO, row: Mapping[str, Any], checksums: bytes, metadata_json: bytes) -> None:
    file.seek(0)
    data = memoryview(file.read())
    frames = data[max(0, row["video_offset"]) + row["first_frame"] :]
    sound = data[max(0, row["audio_offset"]) :][: 2 * row["audio_samples"]]
    if sample_checksums(frames, row["frame_bytes"], sound, metadata_json) != checksums:
        raise RowError("its content differs from its checksums")


def checked_row(row: Any) -> dict[str, Any]:
    """Returns `row` if it holds the metadata of a sample.

    Raises:
        RowError: an entry is missing, or has a value that `sample_row` cannot return.
    """
    if not isinstance(row, dict):
        raise RowError(f"it must be a JSON object, not {format_value(row)}")
    row.setdefault("checksum_offset", -1)  # format 1 has no checksums
    for name, is_valid in _IS_VALID.items():
        if name not in row:
            raise RowError(f"{name} is missing")
        if not is_valid(row[name]):
            raise RowError(f"{name} must not be {format_value(row[name])}")
    return row


def is_text(value: Any) -> bool:
    """Whether `value` is a string that UTF-8 can encode, that is, without the lone surrogates that JSON allows."""
    return isinstance(value, str) and not any("\ud800" <= letter <= "\udfff" for letter in value)


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**31


def _is_offset(value: Any) -> bool:
    return type(value) is int and -1 <= value < 2**62


_IS_VALID: dict[str, Callable[[Any], bool]] = {
    "source": is_text,
    "seconds": lambda value: type(value) in (int, float) and 0 < value < 2**31,
    "labels": lambda value: isinstance(value, dict) and all(map(is_text, [*value, *value.values()])),
    "flags": lambda value: isinstance(value, dict),
    "frame_bytes": lambda value: isinstance(value, list) and all(map(_is_count, value)) and sum(value) < 2**31,
    **dict.fromkeys(("width", "height", "first_frame"), _is_count),
    **dict.fromkeys(("video_offset", "audio_offset", "checksum_offset", "audio_samples"), _is_offset),
}


def write_shard(path: Path, fragments: Sequence[Path | Piece]) -> list[dict[str, Any]]:
    """Joins fragments (files written by `sample_bytes`), or pieces of them, into the tar archive `path`.

    Returns:
        One row per sample, as from `sample_row`, with byte offsets from the start of the shard.

    Raises:
        RowError: a fragment is damaged; the message names it.
    """
    rows = []
    with path.open("wb") as shard:
        for fragment in fragments:
            name = fragment.path if isinstance(fragment, Piece) else fragment
            data = fragment.read() if isinstance(fragment, Piece) else fragment.read_bytes()
            try:
                row = sample_row(io.BytesIO(data))
            except RowError as error:
                remedy = "run the same command again, which prepares its source again"
                raise RowError(f"{name} is damaged ({error}); {remedy}") from None
            for track in ("video_offset", "audio_offset", "checksum_offset"):
                if row[track] >= 0:
                    row[track] += shard.tell()
            rows.append(row)
            shard.write(data)
        shard.write(END_OF_TAR)
    return rows
