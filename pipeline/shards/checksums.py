"""Checksums: CRC-32C of each unit that the loader reads at once, SHA-256 of whole files.

The units of a sample are its frames, one after the other, then its PCM samples in blocks of `AUDIO_BLOCK`, then its
metadata. Their checksums are a member of the tar file beside the sample's tracks, so the manifest holds only an offset
per sample.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from crc32c import crc32c

from pipeline.shards.meta import ChecksumError

AUDIO_BLOCK = 4096
"""PCM samples per checksum: 8 KiB, because a window of sound is read in whole blocks."""

_LINE_KEY = b', "crc32c": '


def sample_checksums(video: memoryview, frame_bytes: Sequence[int], pcm: memoryview, metadata: bytes) -> bytes:
    """The checksums of a sample's units as they are stored, uint32 each.

    Args:
        video: the frames, from the first byte of the first one.
        frame_bytes: size of each frame in bytes.
        pcm: all PCM samples as bytes.
        metadata: content of the member KEY.json.
    """
    ends = itertools.pairwise(itertools.accumulate(frame_bytes, initial=0))
    units = [video[begin:end] for begin, end in ends]
    units += [pcm[begin : begin + 2 * AUDIO_BLOCK] for begin in range(0, len(pcm), 2 * AUDIO_BLOCK)]
    return np.array([*map(crc32c, units), crc32c(metadata)], dtype="<u4").tobytes()


def index_line(row: Mapping[str, Any]) -> str:
    """JSON text of an index row (not empty), whose last key `crc32c` is the checksum of the text before it."""
    body = json.dumps(row, ensure_ascii=False).removesuffix("}")
    return f'{body}, "crc32c": {crc32c(body.encode("utf-8"))}}}\n'


def read_index_line(line: bytes) -> Any:
    """Reads a line that `index_line` wrote, without its checksum; a line without one (format 1) is read unchecked.

    Raises:
        ChecksumError: the checksum does not match.
        ValueError, RecursionError: the line is not JSON.
    """
    row = json.loads(line.decode("utf-8"))
    if isinstance(row, dict) and "crc32c" in row and row.pop("crc32c") != crc32c(line.rpartition(_LINE_KEY)[0]):
        raise ChecksumError("it differs from its checksum")
    return row
