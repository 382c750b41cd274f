"""Reads a complete prepared data set and finds what is damaged in it."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common.environment import available_cores
from common.files import file_sha256
from pipeline.plan.clips import ClipPlan
from pipeline.shards.checksums import AUDIO_BLOCK
from pipeline.shards.codecs import CODECS
from pipeline.shards.manifest import Manifest, ManifestError
from pipeline.shards.reader import ShardError, ShardReader

_FRAMES = 64
"""Frames that are read at once, so that a sample of any length takes little memory."""


@dataclass(frozen=True)
class Damage:
    """Something that is damaged.

    Attributes:
        file: the damaged file.
        what: what is wrong with it.
        sample: id of the sample; None if the damage concerns no single sample.
    """

    file: Path
    what: str
    sample: int | None = None


def verify_shards(manifest: Manifest) -> Iterator[list[Damage]]:
    """Reads every shard, on all cores, and yields for each in turn what is damaged in it.

    A shard whose SHA-256 is right holds what preparation wrote. The samples of other shards are read one by one, as the
    loader reads them; samples that format 1 wrote have no checksums, so for them this finds only damaged headers.
    """
    root = manifest.root
    if not isinstance(root, Path):
        raise ManifestError(f"{root} is in an object store: copy it to this machine to verify it")
    with ThreadPoolExecutor(available_cores()) as threads:
        yield from threads.map(lambda number: _verify_shard(root, manifest, number), range(len(manifest.shards)))


def _verify_shard(root: Path, manifest: Manifest, number: int) -> list[Damage]:
    path, wanted = root / manifest.shards[number], manifest.shard_sha256[number]
    unreadable = []
    try:
        size, expected = path.stat().st_size, int(manifest.shard_bytes[number])
        if size != expected:
            return [Damage(path, f"it has {size:,} bytes, the manifest expects {expected:,}")]
        if wanted and file_sha256(path) == wanted:
            return []
    except FileNotFoundError:
        return [Damage(path, "it is missing")]
    except OSError as error:  # other parts of it may still be readable
        unreadable = [Damage(path, f"it cannot be read ({error.strerror})")]
    reader = ShardReader(manifest=manifest, frames=_FRAMES, stride=1, audio_samples=16 * AUDIO_BLOCK)
    samples = np.flatnonzero(manifest.shard == number).tolist()
    found = unreadable + [damage for i in samples if (damage := _verify_sample(reader, i)) is not None]
    if wanted and not found:  # the difference is in tar headers, metadata or padding
        return [Damage(path, "its SHA-256 differs, but the frames and the sound of all its samples are intact")]
    return found


def _verify_sample(reader: ShardReader, i: int) -> Damage | None:
    manifest = reader.manifest
    try:
        for start in range(0, int(manifest.frames[i]), _FRAMES):
            CODECS[manifest.storage.codec].read(reader, _plan(i, start_frame=start))
        for start in range(0, int(manifest.audio_samples[i]), reader.audio_samples):
            reader.pcm(_plan(i, audio_start=start))
    except ShardError as error:
        return Damage(Path(error.file), error.reason, i)
    return None


def _plan(i: int, *, start_frame: int = 0, audio_start: int = 0) -> ClipPlan:
    one, zero = np.array([i]), np.zeros(1)
    return ClipPlan(
        ids=one,
        audio_ids=one,
        start_frame=np.array([start_frame]),
        start=zero,
        audio_start=np.array([audio_start]),
        window=np.zeros((1, 4), dtype=np.int64),
        flip=np.zeros(1, dtype=bool),
        color=np.zeros((1, 3, 4)),
        number=np.zeros(1, dtype=np.int64),
        epoch=np.zeros(1, dtype=np.int64),
    )
