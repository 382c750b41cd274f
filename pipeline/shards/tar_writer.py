"""The bytes of shards: a sample's tar members, and where its tracks lie within them."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from pipeline.prepare.media import NormalisedMedia
from pipeline.shards.codecs import CODECS
from pipeline.shards.wav import WAV_HEADER_BYTES, wav_bytes
from settings import PrepareConfig
from settings.load import format_value

END_OF_TAR = bytes(2 * tarfile.BLOCKSIZE)


class RowError(ValueError):
    """What stands for a sample is not what was written; the message says what is wrong with it."""


def sample_bytes(
    media: NormalisedMedia, *, key: str, source: str, labels: Mapping[str, str], config: PrepareConfig
) -> bytes:
    """The sample as tar members KEY.ivf or KEY.mjpeg, KEY.wav and KEY.json, without the end of an archive."""
    facts: dict[str, Any] = {"source": source, "labels": dict(labels), "flags": media.flags}
    members = b""
    if media.video is not None:
        video, fps = media.video, float(config.storage.fps)
        members += _member(f"{key}.{CODECS[config.storage.codec].suffix}", video.data)
        facts |= {"seconds": len(video.frame_bytes) / fps, "fps": fps, "frames": len(video.frame_bytes)}
        facts |= {"width": video.width, "height": video.height}
        facts |= {"first_frame": video.first_frame, "frame_bytes": video.frame_bytes}
    if media.pcm is not None:
        members += _member(f"{key}.wav", wav_bytes(media.pcm, config.sample_rate))
        facts.setdefault("seconds", len(media.pcm) / config.sample_rate)
        facts |= {"sample_rate": config.sample_rate, "audio_samples": len(media.pcm)}
    return members + _member(f"{key}.json", json.dumps(facts, ensure_ascii=False).encode("utf-8"))


def sample_row(file: BinaryIO) -> dict[str, Any]:
    """Reads back what `sample_bytes` wrote: its facts, and the offsets of its tracks counted from the first byte.

    Raises:
        RowError: it was written by something else, or is damaged.
    """
    video_suffixes = {codec.suffix for codec in CODECS.values()}
    row: dict[str, Any] = {"video_offset": -1, "audio_offset": -1, "audio_samples": 0}
    row |= {"width": 0, "height": 0, "first_frame": 0, "frame_bytes": []}
    try:
        with tarfile.open(fileobj=file, mode="r:") as archive:
            for member in archive:
                suffix = member.name.rpartition(".")[2]
                if not member.isreg():
                    raise RowError(f"{format_value(member.name)} is no file")
                if suffix in video_suffixes:
                    row["video_offset"] = member.offset_data
                elif suffix == "wav":
                    row["audio_offset"] = member.offset_data + WAV_HEADER_BYTES
                elif suffix == "json":
                    content = archive.extractfile(member)
                    row |= json.load(content) if content is not None else {}
    except RowError:
        raise
    except (tarfile.TarError, ValueError, TypeError, OverflowError, OSError, EOFError, RecursionError) as error:
        raise RowError(" ".join(str(error).split())) from None
    return checked_row(row)


def checked_row(row: Any) -> dict[str, Any]:
    """`row`, the facts of a sample.

    Raises:
        RowError: a fact is missing or of another kind than `sample_row` gives.
    """
    if not isinstance(row, dict):
        raise RowError(f"it is no JSON object but {format_value(row)}")
    for name, holds in _FACTS.items():
        if name not in row:
            raise RowError(f"{name} is missing")
        if not holds(row[name]):
            raise RowError(f"{name} is {format_value(row[name])}")
    return row


def is_text(value: Any) -> bool:
    """Whether `value` is text that UTF-8 can hold: JSON also writes halves of surrogate pairs."""
    return isinstance(value, str) and not any("\ud800" <= letter <= "\udfff" for letter in value)


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**31


def _is_offset(value: Any) -> bool:
    return type(value) is int and -1 <= value < 2**62


_FACTS: dict[str, Callable[[Any], bool]] = {
    "source": is_text,
    "seconds": lambda value: type(value) in (int, float) and 0 < value < 2**31,
    "labels": lambda value: isinstance(value, dict) and all(map(is_text, [*value, *value.values()])),
    "flags": lambda value: isinstance(value, dict),
    "frame_bytes": lambda value: isinstance(value, list) and all(map(_is_count, value)) and sum(value) < 2**31,
    **dict.fromkeys(("width", "height", "first_frame"), _is_count),
    **dict.fromkeys(("video_offset", "audio_offset", "audio_samples"), _is_offset),
}


def write_shard(path: Path, fragments: list[Path]) -> list[dict[str, Any]]:
    """Joins fragments (files of `sample_bytes`) into the tar `path`; returns their rows, offsets counted within it.

    Raises:
        RowError: a damaged fragment; the message names it.
    """
    rows = []
    with path.open("wb") as shard:
        for fragment in fragments:
            with fragment.open("rb") as file:
                try:
                    row = sample_row(file)
                except RowError as error:
                    remedy = "delete it and run the same command again, which prepares its source again"
                    raise RowError(f"{fragment} is damaged ({error}); {remedy}") from None
                file.seek(0)
                data = file.read()
            for track in ("video_offset", "audio_offset"):
                if row[track] >= 0:
                    row[track] += shard.tell()
            rows.append(row)
            shard.write(data)
        shard.write(END_OF_TAR)
    return rows


def _member(name: str, data: bytes) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.mode = len(data), 0o644
    padding = bytes(-len(data) % tarfile.BLOCKSIZE)
    return info.tobuf(format=tarfile.USTAR_FORMAT) + data + padding
