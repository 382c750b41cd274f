"""From clip plans to bytes: reads just the frames and the PCM samples that a clip needs out of the shards."""

from __future__ import annotations

import itertools
import os
import struct
import weakref
from collections import OrderedDict

import numpy as np

from common.cpu_priority import give_way
from pipeline.plan.bad_samples import SampleError
from pipeline.plan.clips import ClipPlan
from pipeline.shards.manifest import Manifest

IVF_HEADER_BYTES = 32
IVF_FRAME_HEADER_BYTES = 12
JPEG_HEADER_BYTES = 4096
"""More than the tables of a baseline JPEG take."""
OPEN_SHARDS = 256
"""File descriptors a reader keeps; the usual limit of a process is 1,024."""


class ShardError(SampleError):
    """A shard does not hold what the manifest promises; the message names shard, sample and remedy."""


class ShardReader:
    """Random access to the samples of prepared shards.

    Args:
        manifest: where things are.
        frames: T, frames of a clip.
        stride: stored frames from one frame of a clip to the next.
        audio_samples: PCM samples of an audio window.
    """

    def __init__(self, *, manifest: Manifest, frames: int, stride: int, audio_samples: int) -> None:
        self.manifest = manifest
        self.frames = frames
        self.stride = stride
        self.audio_samples = audio_samples
        self._open: OrderedDict[int, int] = OrderedDict()
        weakref.finalize(self, _close_all, self._open)

    def vp9(self, plan: ClipPlan) -> tuple[list[np.ndarray], np.ndarray]:
        """The groups of pictures that hold each clip, as IVF files.

        Returns:
            B uint8 arrays, and int32 [B], the place of the clip's first frame in each.
        """
        m = self.manifest
        self._check_frames(plan.ids)
        ids, first = plan.ids, m.frame_start[plan.ids]
        key_frame = plan.start_frame // m.storage.gop * m.storage.gop
        span = (self.frames - 1) * self.stride + 1
        end = np.minimum(plan.start_frame + span, m.frames[ids])
        begin_byte = m.frame_offsets[first + key_frame].astype(np.int64)
        end_byte = m.frame_offsets[first + end].astype(np.int64)
        blobs = self._read(ids, m.video_offset[ids] + begin_byte, end_byte - begin_byte, room=IVF_HEADER_BYTES)
        for i, blob, begin, stop in zip(
            ids.tolist(), blobs, (first + key_frame).tolist(), (first + end).tolist(), strict=True
        ):
            offsets = m.frame_offsets[begin : stop + 1].astype(np.int64)
            if not _is_vp9(blob, (offsets - offsets[0] + IVF_HEADER_BYTES).tolist()):
                raise self._mismatch(i, "there is no VP9 video where the manifest says")
            blob[:IVF_HEADER_BYTES] = np.frombuffer(self._ivf_header(i), dtype=np.uint8)
        return blobs, (plan.start_frame - key_frame).astype(np.int32)

    def jpeg(self, plan: ClipPlan) -> np.ndarray:
        """The frames of each clip, a JPEG image a row, the last frame again where a sample is shorter than the clip.

        Returns:
            uint8 [B * T, bytes of the longest]; zeros behind the others, which no decoder reads.
        """
        m = self.manifest
        self._check_frames(plan.ids)
        ids, first = plan.ids, m.frame_start[plan.ids][:, None]
        wanted = plan.start_frame[:, None] + np.arange(self.frames) * self.stride
        wanted = np.minimum(wanted, m.frames[ids].astype(np.int64)[:, None] - 1)
        begin = m.frame_offsets[first + wanted].astype(np.int64)
        sizes = m.frame_offsets[first + wanted + 1].astype(np.int64) - begin
        offset = begin[:, :1]
        shape = np.stack([m.height[ids], m.width[ids]], axis=1).astype(np.int64)
        # An index that is damaged could ask for more memory than there is.
        room = 2 * 3 * shape.prod(axis=1) + JPEG_HEADER_BYTES
        possible = (begin >= offset) & (sizes >= 0) & (sizes <= room[:, None])
        self._check_jpeg(ids, possible)
        blobs = self._read(ids, m.video_offset[ids] + offset[:, 0], (begin + sizes - offset)[:, -1])
        images = np.zeros((*begin.shape, sizes.max(initial=0)), dtype=np.uint8)
        for clip, blob, starts, lengths in zip(images, blobs, (begin - offset).tolist(), sizes.tolist(), strict=True):
            for image, start, length in zip(clip, starts, lengths, strict=True):
                part = blob[start : start + length]
                image[: len(part)] = part
        images = images.reshape(begin.size, images.shape[2])
        valid = _are_jpegs(images, sizes.reshape(-1), shape.repeat(self.frames, axis=0))
        self._check_jpeg(ids, valid.reshape(begin.shape))
        return images

    def _check_jpeg(self, ids: np.ndarray, valid: np.ndarray) -> None:
        """Raises ShardError for the first sample with a frame that is not valid; `valid` is bool [B, T]."""
        if not valid.all():
            row = int(np.argmin(valid)) // self.frames
            raise self._mismatch(int(ids[row]), "there is no JPEG image where the manifest says")

    def pcm(self, plan: ClipPlan) -> np.ndarray:
        """Audio windows, int16 [B, audio_samples]; silence after the end of a sample that is shorter."""
        m = self.manifest
        ids = plan.audio_ids
        count = np.clip(m.audio_samples[ids] - plan.audio_start, 0, self.audio_samples)
        windows = np.zeros((len(ids), self.audio_samples), dtype="<i2")
        offsets = m.audio_offset[ids] + 2 * plan.audio_start
        self._check_ranges(ids, offsets, 2 * count)
        self._prefetch(ids, offsets, 2 * count)
        for i, window, offset, n in zip(ids.tolist(), windows, offsets.tolist(), count.tolist(), strict=True):
            self._fill(i, window[:n], offset)
        return windows

    def _ivf_header(self, i: int) -> bytes:
        """An IVF header that promises no number of frames: DALI looks for promised frames without end."""
        rate = round(1000 * self.manifest.storage.fps)
        width, height = int(self.manifest.width[i]), int(self.manifest.height[i])
        return struct.pack("<4sHH4sHHIIII", b"DKIF", 0, 32, b"VP90", width, height, rate, 1000, 0, 0)

    def _read(self, ids: np.ndarray, offsets: np.ndarray, sizes: np.ndarray, *, room: int = 0) -> list[np.ndarray]:
        """Byte ranges as uint8 arrays that begin with `room` unset bytes."""
        self._check_ranges(ids, offsets, sizes)
        self._prefetch(ids, offsets, sizes)
        blobs = []
        for i, offset, size in zip(ids.tolist(), offsets.tolist(), sizes.tolist(), strict=True):
            blob = np.empty(room + size, dtype=np.uint8)
            self._fill(i, blob[room:], offset)
            blobs.append(blob)
        return blobs

    def _check_frames(self, ids: np.ndarray) -> None:
        """Raises ShardError for the first sample whose row does not lead to offsets of frames."""
        m = self.manifest
        first, frames = m.frame_start[ids], m.frames[ids].astype(np.int64)
        size = np.stack([m.width[ids], m.height[ids]])
        no_picture = (frames < 1) | ((size < 1) | (size > 65535)).any(axis=0)
        wrong = ids[no_picture | (first < 0) | (first >= len(m.frame_offsets) - frames)]
        if len(wrong):
            raise self._mismatch(int(wrong[0]), "the manifest lists no frames that could be")

    def _check_ranges(self, ids: np.ndarray, offsets: np.ndarray, sizes: np.ndarray) -> None:
        """Raises ShardError for the first sample that would lie outside its shard."""
        ends = self.manifest.shard_bytes[self.manifest.shard[ids]]
        wrong = ids[(offsets < 0) | (sizes < 0) | (sizes > ends) | (offsets > ends - sizes)]
        if len(wrong):
            raise self._mismatch(int(wrong[0]), "the manifest places it outside the shard")

    def _prefetch(self, ids: np.ndarray, offsets: np.ndarray, sizes: np.ndarray) -> None:
        """Tells the kernel all ranges of a batch before the first is read: slow disks then serve them side by side."""
        for i, offset, size in zip(ids.tolist(), offsets.tolist(), sizes.tolist(), strict=True):
            os.posix_fadvise(self._descriptor(i), offset, size, os.POSIX_FADV_WILLNEED)

    def _fill(self, i: int, target: np.ndarray, offset: int) -> None:
        give_way()
        try:
            got = os.preadv(self._descriptor(i), [target.data], offset)
        except OSError as error:
            raise self._mismatch(i, f"it cannot be read ({error.strerror})") from None
        if got != target.nbytes:
            raise self._mismatch(i, f"it ends {target.nbytes - got} bytes short of byte {offset + target.nbytes}")

    def _descriptor(self, i: int) -> int:
        shard = int(self.manifest.shard[i])
        if shard in self._open:
            self._open.move_to_end(shard)
            return self._open[shard]
        try:
            descriptor = os.open(self._path(i), os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise self._mismatch(i, f"it cannot be opened ({error.strerror})") from None
        self._open[shard] = descriptor
        if len(self._open) > OPEN_SHARDS:
            os.close(self._open.popitem(last=False)[1])
        return descriptor

    def _path(self, i: int) -> str:
        return os.path.join(self.manifest.root, self.manifest.shards[int(self.manifest.shard[i])])

    def _mismatch(self, i: int, what: str) -> ShardError:
        return ShardError(
            f"shard {self._path(i)} is damaged or not the one that the manifest describes: {what}, "
            f"for sample {i} ({self.manifest.source(i)}). Copy the shard again, or run pipeline.prepare again",
            sample=i,
            file=self._path(i),
            reason=what,
        )


def _is_vp9(blob: np.ndarray, offsets: list[int]) -> bool:
    """Whether frames of an IVF file lie at the offsets and the first is a key frame.

    DALI never returns from a file whose last frame is shorter than its header says.
    """
    for offset, end in itertools.pairwise(offsets):
        if not 0 <= offset <= end - IVF_FRAME_HEADER_BYTES <= len(blob) - IVF_FRAME_HEADER_BYTES:
            return False
        if offset + IVF_FRAME_HEADER_BYTES + struct.unpack_from("<I", blob.data, offset)[0] != end:
            return False
    start = offsets[0] + IVF_FRAME_HEADER_BYTES
    if start + 4 > len(blob):
        return False
    # Frame marker, profile 0, no repeated frame, key frame; then the sync code.
    return blob[start] & 0xFC == 0x80 and blob[start + 1 : start + 4].tobytes() == b"\x49\x83\x42"


def _are_jpegs(images: np.ndarray, lengths: np.ndarray, shapes: np.ndarray) -> np.ndarray:
    """Which rows are baseline JPEGs of their (height, width) whose segments follow one another up to the picture.

    A file whose segments do not parse makes DALI's image decoder crash some batches later (seen in 2.4.0). All rows are
    parsed side by side, because the training step waits while Python parses.

    Args:
        images: uint8 [N, any].
        lengths: int64 [N], bytes of each.
        shapes: int64 [N, 2].
    """
    valid = np.zeros(len(images), dtype=bool)
    sized = valid.copy()
    rows = np.flatnonzero(lengths >= 2)
    first, second = _bytes(images, rows, np.zeros_like(rows), 2)
    rows = rows[(first == 0xFF) & (second == 0xD8)]
    places = np.full(len(rows), 2)
    while len(rows):
        whole = places + 4 <= lengths[rows]
        rows, places = rows[whole], places[whole]
        marker, kind, high, low = _bytes(images, rows, places, 4)
        length = 256 * high + low
        valid[rows[(marker == 0xFF) & (length >= 2) & (kind == 0xDA) & sized[rows]]] = True
        frame = np.flatnonzero((kind == 0xC0) & (length == 17) & (places + 10 <= lengths[rows]))
        at = rows[frame]
        bits, *size, channels = _bytes(images, at, places[frame] + 4, 6)
        height, width = 256 * size[0] + size[1], 256 * size[2] + size[3]
        sized[rows[kind == 0xC0]] = False
        sized[at] = (bits == 8) & (channels == 3) & (height == shapes[at, 0]) & (width == shapes[at, 1])
        going = (marker == 0xFF) & (length >= 2) & (kind != 0xDA)
        rows, places = rows[going], (places + 2 + length)[going]
    return valid


def _bytes(images: np.ndarray, rows: np.ndarray, places: np.ndarray, count: int) -> np.ndarray:
    """`count` bytes of each row from its place on, int64 [count, rows]."""
    return images[rows, places + np.arange(count)[:, None]].astype(np.int64)


def _close_all(descriptors: OrderedDict[int, int]) -> None:
    while descriptors:
        os.close(descriptors.popitem()[1])
