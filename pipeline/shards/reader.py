"""Random access to shards: reads only the bytes of the frames and PCM samples that a clip needs."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np

from common.terminal import printable
from pipeline.plan.audio_augment import waveforms
from pipeline.plan.bad_samples import SampleError
from pipeline.plan.clips import ClipPlan
from pipeline.shards.checksums import AUDIO_BLOCK, crc32c
from pipeline.shards.manifest import Manifest
from pipeline.shards.shard_files import RemoteShards, ShardFiles, Unreadable, shard_files

RANGES = 128
"""Largest number of byte ranges that are read at the same time, if each takes as long as a request to a server."""

T = TypeVar("T")


class ShardError(SampleError):
    """A shard does not hold what the manifest promises; the message names shard, sample and remedy."""


class ShardReader:
    """Reads audio windows, and the byte ranges in which a codec (pipeline.shards.codecs) finds its frames.

    All methods may be called by several threads.

    Args:
        manifest: index of the samples.
        frames: T, number of frames per clip.
        stride: stored frames from one frame of a clip to the next.
        audio_samples: PCM samples per audio window.
        files: access to the shards; None opens them where the manifest says, without copies.
        in_threads: called at the start of each thread that reads ranges.
        first_id: the id that sample 0 has in a mix; errors name samples by their ids there.
    """

    def __init__(
        self,
        *,
        manifest: Manifest,
        frames: int,
        stride: int,
        audio_samples: int,
        files: ShardFiles | None = None,
        in_threads: Callable[[], None] | None = None,
        first_id: int = 0,
    ) -> None:
        self.manifest = manifest
        self.first_id = first_id
        self.frames = frames
        self.stride = stride
        self.audio_samples = audio_samples
        self.files: ShardFiles = shard_files(manifest) if files is None else files
        self._threads = ThreadPoolExecutor(RANGES, "shard-range", in_threads)  # which start when they are needed
        self._waited = threading.local()

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
        shards, places = self.manifest.shard[ids].tolist(), offsets.tolist()
        blobs = [np.empty(room + size, dtype=np.uint8) for size in sizes.tolist()]
        try:
            self.files.announce(shards, places, sizes.tolist())
        except Unreadable as error:
            raise self.mismatch(int(ids[error.args[1]]), error.args[0]) from None
        ranges = zip(ids.tolist(), shards, (blob[room:] for blob in blobs), places, strict=True)
        slow = [(i, *at) for i, *at in ranges if not self._fill(self.files.fill_at_once, i, *at)]
        if slow:
            began = time.perf_counter()
            for _ in self._threads.map(lambda one: self._fill(self.files.fill, *one), slow):
                pass
            self._waited.seconds = self.waited() + time.perf_counter() - began
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

    def shards_of(self, plan: ClipPlan) -> np.ndarray:
        """Returns the numbers of the shards that hold the clips of a plan, sorted."""
        ids = [plan.ids, plan.audio_ids]
        if plan.audio is not None and plan.audio.mixed_ids is not None:
            ids.append(plan.audio.mixed_ids)
        return np.unique(self.manifest.shard[np.concatenate(ids)])

    @property
    def remote(self) -> RemoteShards | None:
        """Access to the shards, if they are in an object store."""
        return self.files if isinstance(self.files, RemoteShards) else None

    @property
    def removed(self) -> int:
        """How often `distrust` has removed a copy."""
        return self.files.removed

    def distrust(self, i: int) -> None:
        """Removes this machine's copy of the shard of sample `i`, if there is one: it seems to be damaged."""
        self.files.distrust(int(self.manifest.shard[i]))

    def file_of(self, i: int) -> str:
        """Path or URL of the shard of sample `i`."""
        return self.files.path(int(self.manifest.shard[i]))

    def waited(self) -> float:
        """Time in seconds that `read` has waited for disks and servers so far, called by this thread."""
        return getattr(self._waited, "seconds", 0.0)

    def _fill(self, fill: Callable[[int, np.ndarray, int], T], i: int, shard: int, target: np.ndarray, at: int) -> T:
        """Returns `fill(shard, target, at)`, whose errors then name sample `i`."""
        try:
            return fill(shard, target, at)
        except Unreadable as error:
            raise self.mismatch(i, str(error)) from None

    def mismatch(self, i: int, what: str) -> ShardError:
        """Builds the error for sample `i`; `what` says what is wrong."""
        path = self.files.path(int(self.manifest.shard[i]))
        return ShardError(
            f"shard {path} is damaged or not the one that the manifest describes: {what}, "
            f"for sample {i + self.first_id} ({printable(self.manifest.source(i))}). Copy the shard again, or run "
            "pipeline.prepare again",
            sample=i + self.first_id,
            file=path,
            reason=what,
        )
