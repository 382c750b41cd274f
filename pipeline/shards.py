"""The bytes of shards: a sample's tar members, and where its tracks lie within them."""

from __future__ import annotations

import json
import struct
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from config import PrepareConfig
from pipeline.media import NormalisedMedia
from pipeline.storage import SUFFIX

WAV_HEADER_BYTES = 44
END_OF_TAR = bytes(2 * tarfile.BLOCKSIZE)


def sample_bytes(
    media: NormalisedMedia, *, key: str, source: str, labels: Mapping[str, str], config: PrepareConfig
) -> bytes:
    """The sample as tar members KEY.ivf or KEY.mjpeg, KEY.wav and KEY.json, without the end of an archive."""
    facts: dict[str, Any] = {"source": source, "labels": dict(labels), "flags": media.flags}
    members = b""
    if media.video is not None:
        video, fps = media.video, float(config.storage.fps)
        members += _member(f"{key}.{SUFFIX[config.storage.codec]}", video.data)
        facts |= {"seconds": len(video.frame_bytes) / fps, "fps": fps, "frames": len(video.frame_bytes)}
        facts |= {"width": video.width, "height": video.height}
        facts |= {"first_frame": video.first_frame, "frame_bytes": video.frame_bytes}
    if media.pcm is not None:
        members += _member(f"{key}.wav", _wav(media.pcm, config.sample_rate))
        facts.setdefault("seconds", len(media.pcm) / config.sample_rate)
        facts |= {"sample_rate": config.sample_rate, "audio_samples": len(media.pcm)}
    return members + _member(f"{key}.json", json.dumps(facts, ensure_ascii=False).encode("utf-8"))


def sample_row(file: BinaryIO) -> dict[str, Any]:
    """Reads back what `sample_bytes` wrote: its facts, and the offsets of its tracks counted from the first byte."""
    row: dict[str, Any] = {"video_offset": -1, "audio_offset": -1, "audio_samples": 0}
    row |= {"width": 0, "height": 0, "first_frame": 0, "frame_bytes": []}
    with tarfile.open(fileobj=file, mode="r:") as archive:
        for member in archive:
            suffix = member.name.rpartition(".")[2]
            if suffix in SUFFIX.values():
                row["video_offset"] = member.offset_data
            elif suffix == "wav":
                row["audio_offset"] = member.offset_data + WAV_HEADER_BYTES
            elif suffix == "json":
                content = archive.extractfile(member)
                assert content is not None
                row |= json.load(content)
    return row


def write_shard(path: Path, fragments: list[Path]) -> list[dict[str, Any]]:
    """Joins fragments (files of `sample_bytes`) into the tar `path`; returns their rows, offsets counted within it."""
    rows = []
    with path.open("wb") as shard:
        for fragment in fragments:
            with fragment.open("rb") as file:
                row = sample_row(file)
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


def _wav(pcm: NDArray[np.int16], sample_rate: int) -> bytes:
    data = pcm.astype("<i2").tobytes()
    form = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, sample_rate, 2 * sample_rate, 2, 16)
    riff = struct.pack("<4sI4s", b"RIFF", 36 + len(data), b"WAVE")
    return riff + form + struct.pack("<4sI", b"data", len(data)) + data
