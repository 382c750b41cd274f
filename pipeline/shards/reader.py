"""Random access to shards: reads only the bytes of the frames and PCM samples that a clip needs."""

from __future__ import annotations

import os
import weakref
from collections import OrderedDict
from collections.abc import Sequence

import numpy as np

from common.terminal import printable
from pipeline.plan.audio_augment import waveforms
from pipeline.plan.bad_samples import SampleError
from pipeline.plan.clips import ClipPlan
from pipeline.shards.checksums import AUDIO_BLOCK, crc32c
from pipeline.shards.manifest import Manifest

OPEN_SHARDS = 256
"""Largest number of shards that a reader keeps open; the usual limit of a process is 1,024 files."""


class ShardError(SampleError):
    """A shard does not hold what the manifest promises; the message names shard, sample and remedy."""


class ShardReader:
    """Reads audio windows, and the byte ranges in which a codec (pipeline.shards.codecs) finds its frames.

    Not thread-safe, because of the table of open files.

    Args:
        manifest: index of the samples.
        frames: T, number of frames per clip.
        stride: stored frames from one frame of a clip to the next.
        audio_samples: PCM samples per audio window.
    """

    def __init__(self, *, manifest: Manifest, frames: int, stride: int, audio_samples: int) -> None:
        self.manifest = manifest
        self.frames = frames
        self.stride = stride
        self.audio_samples = audio_samples
        self._open: OrderedDict[int, int] = OrderedDict()
        weakref.finalize(self, _close_all, self._open)

    def pcm(self, plan: ClipPlan) -> np.ndarray:
        """Reads audio windows [B, audio_samples], silent after the end of the sample: int16, or float32 of the same
        scale if the plan changes waveforms.

        Raises:
            ShardError: the shard does not hold what the manifest promises; the error names the sample.
        """
        return waveforms(plan.audio, (plan.audio_ids, plan.audio_start), self._windows)

    def _windows(self, ids: np.ndarray, start: np.ndarray) -> np.ndarray:
        """Reads the audio of `ids` from PCM samples `start`, int64 [B]; returns int16 [B, audio_samples]."""
        m = self.manifest
        total = m.audio_samples[ids]
        count = np.clip(total - start, 0, self.audio_samples)
        # Whole blocks, because each has one checksum.
        first = np.where(count > 0, start // AUDIO_BLOCK, 0)
        last = np.where(count > 0, -(-(start + count) // AUDIO_BLOCK), 0)
        begin = first * AUDIO_BLOCK
        sizes = 2 * (np.minimum(last * AUDIO_BLOCK, total) - begin)
        stored = self.checksums(ids, m.frames[ids] + first, last - first)
        blobs = self.read(ids, m.audio_offset[ids] + 2 * begin, np.maximum(sizes, 0))
        windows = np.zeros((len(ids), self.audio_samples), dtype="<i2")
        skipped = (start - begin).tolist()
        for row, (blob, checksums, skip, n) in enumerate(zip(blobs, stored, skipped, count.tolist(), strict=True)):
            if checksums is not None:
                found = [crc32c(blob[at : at + 2 * AUDIO_BLOCK].data) for at in range(0, len(blob), 2 * AUDIO_BLOCK)]
                self.compare(
                    int(ids[row]), found, checksums, "block of sound", numbers=range(int(first[row]), int(last[row]))
                )
            windows[row, :n] = blob.view("<i2")[skip : skip + n]
        return windows

    def read(self, ids: np.ndarray, offsets: np.ndarray, sizes: np.ndarray, *, room: int = 0) -> list[np.ndarray]:
        """Reads byte ranges of shards as uint8 arrays, each preceded by `room` uninitialised bytes.

        Args:
            ids: int64 [N], samples whose shards are read.
            offsets, sizes: int64 [N], in bytes; offsets count from the start of the shard.
            room: space at the start of each array, in bytes, for a header that the caller writes.

        Raises:
            ShardError: a range lies outside its shard, or cannot be read.
        """
        self._check_ranges(ids, offsets, sizes)
        self._prefetch(ids, offsets, sizes)
        blobs = []
        for i, offset, size in zip(ids.tolist(), offsets.tolist(), sizes.tolist(), strict=True):
            blob = np.empty(room + size, dtype=np.uint8)
            self._fill(i, blob[room:], offset)
            blobs.append(blob)
        return blobs

    def checksums(self, ids: np.ndarray, first: np.ndarray, count: np.ndarray) -> list[list[int] | None]:
        """Reads the checksums of units of samples; None for a sample that has none, because it was written in format 1.

        Args:
            ids: int64 [N], samples.
            first, count: int64 [N], the first unit, and how many; see pipeline.shards.checksums.

        Raises:
            ShardError: a range lies outside its shard, or cannot be read.
        """
        places = self.manifest.checksum_offset[ids]
        rows = np.flatnonzero(places >= 0)
        blobs = self.read(ids[rows], places[rows] + 4 * first[rows].astype(np.int64), 4 * count[rows])
        stored: list[list[int] | None] = [None] * len(ids)
        for row, blob in zip(rows.tolist(), blobs, strict=True):
            stored[row] = blob.view("<u4").tolist()
        return stored

    def compare(self, i: int, found: list[int], stored: list[int], unit: str, *, numbers: Sequence[int]) -> None:
        """Raises ShardError if checksums of sample `i` differ from the stored ones.

        Args:
            unit: what the checksums are of: frame or block of sound.
            numbers: number of each unit within the sample.
        """
        if found != stored:
            wrong = [number for number, one, other in zip(numbers, found, stored, strict=True) if one != other]
            raise self.mismatch(i, f"{unit} {wrong[0]} differs from its checksum")

    def check_frames(self, ids: np.ndarray) -> None:
        """Raises ShardError for the first sample whose frame count, frame size or frame offsets are not possible."""
        m = self.manifest
        first, frames = m.frame_start[ids], m.frames[ids].astype(np.int64)
        size = np.stack([m.width[ids], m.height[ids]])
        impossible = (frames < 1) | ((size < 1) | (size > 65535)).any(axis=0)
        wrong = ids[impossible | (first < 0) | (first >= len(m.frame_offsets) - frames)]
        if len(wrong):
            raise self.mismatch(int(wrong[0]), "the manifest lists no frames or impossible ones")

    def _check_ranges(self, ids: np.ndarray, offsets: np.ndarray, sizes: np.ndarray) -> None:
        """Raises ShardError for the first sample whose byte range lies outside its shard."""
        ends = self.manifest.shard_bytes[self.manifest.shard[ids]]
        wrong = ids[(offsets < 0) | (sizes < 0) | (sizes > ends) | (offsets > ends - sizes)]
        if len(wrong):
            raise self.mismatch(int(wrong[0]), "the manifest places it outside the shard")

    def _prefetch(self, ids: np.ndarray, offsets: np.ndarray, sizes: np.ndarray) -> None:
        """Announces all ranges to the kernel before the first read, so that slow disks serve them in parallel."""
        for i, offset, size in zip(ids.tolist(), offsets.tolist(), sizes.tolist(), strict=True):
            os.posix_fadvise(self._descriptor(i), offset, size, os.POSIX_FADV_WILLNEED)

    def _fill(self, i: int, target: np.ndarray, offset: int) -> None:
        """Fills `target` with the bytes at `offset` of the shard that holds sample `i`."""
        try:
            got = os.preadv(self._descriptor(i), [target.data], offset)
        except OSError as error:
            raise self.mismatch(i, f"it cannot be read ({error.strerror})") from None
        if got != target.nbytes:
            raise self.mismatch(i, f"it ends {target.nbytes - got} bytes short of byte {offset + target.nbytes}")

    def _descriptor(self, i: int) -> int:
        """Descriptor of the open shard of sample `i`; opens it if needed and closes the least recently used one."""
        shard = int(self.manifest.shard[i])
        if shard in self._open:
            self._open.move_to_end(shard)
            return self._open[shard]
        try:
            descriptor = os.open(self._path(i), os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise self.mismatch(i, f"it cannot be opened ({error.strerror})") from None
        self._open[shard] = descriptor
        if len(self._open) > OPEN_SHARDS:
            os.close(self._open.popitem(last=False)[1])
        return descriptor

    def _path(self, i: int) -> str:
        return os.path.join(self.manifest.root, self.manifest.shards[int(self.manifest.shard[i])])

    def mismatch(self, i: int, what: str) -> ShardError:
        """Builds the error for sample `i`; `what` says what is wrong."""
        return ShardError(
            f"shard {self._path(i)} is damaged or not the one that the manifest describes: {what}, "
            f"for sample {i} ({printable(self.manifest.source(i))}). Copy the shard again, or run "
            "pipeline.prepare again",
            sample=i,
            file=self._path(i),
            reason=what,
        )


def _close_all(descriptors: OrderedDict[int, int]) -> None:
    while descriptors:
        os.close(descriptors.popitem()[1])
