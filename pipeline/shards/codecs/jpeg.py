"""Concatenated JPEG images: only the images of a clip are decoded, and each is one DALI sample."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import av
import numpy as np

from pipeline.plan.clips import ClipPlan
from pipeline.shards.checksums import crc32c
from pipeline.shards.codecs.base import Codec, Inputs, VideoBlob
from pipeline.shards.reader import ShardReader

_HEADER_BYTES = 4096
"""Upper bound of the size of a baseline JPEG's headers and tables, in bytes."""

_SPARED_PIXELS = 128
"""Decoding only the crop's columns pays off if it saves more than this many pixels per row (docs/performance.md)."""


class Jpeg(Codec):
    """The codec storage.codec=jpeg."""

    suffix = "mjpeg"
    encoder = "mjpeg"
    decoder = "mjpeg"
    pixel_format = "yuvj420p"
    default_quality = 4
    needs_nvdec = False

    def configure(self, encoder: av.VideoCodecContext, *, quality: int, gop: int) -> None:
        """Ignores `gop`, because every frame is a key frame."""
        # global_quality has no effect here: the ffmpeg program copies it to each frame, which PyAV cannot do, and
        # frames without it get quality 2.
        encoder.options = {"qmin": str(quality), "qmax": str(quality)}

    def pack(self, packets: Sequence[bytes], *, width: int, height: int, rate: Fraction) -> VideoBlob:
        sizes = [len(packet) for packet in packets]
        return VideoBlob(data=b"".join(packets), frame_bytes=sizes, first_frame=0, width=width, height=height)

    def read(self, reader: ShardReader, plan: ClipPlan) -> Inputs:
        """See `Codec.read`: `encoded` is uint8 [B * T, bytes of the longest image]; shorter images are zero-padded.

        Decoders ignore the padding. The last frame is repeated if a sample is shorter than the clip.
        """
        m = reader.manifest
        reader.check_frames(plan.ids)
        ids, first = plan.ids, m.frame_start[plan.ids][:, None]
        wanted = plan.start_frame[:, None] + np.arange(reader.frames) * reader.stride
        wanted = np.minimum(wanted, m.frames[ids].astype(np.int64)[:, None] - 1)
        begin = m.frame_offsets[first + wanted].astype(np.int64)
        sizes = m.frame_offsets[first + wanted + 1].astype(np.int64) - begin
        offset = begin[:, :1]
        shape = np.stack([m.height[ids], m.width[ids]], axis=1).astype(np.int64)
        # Limit the size of an image: a damaged index could otherwise request more memory than the machine has.
        limit = 2 * 3 * shape.prod(axis=1) + _HEADER_BYTES
        _check(reader, ids, (begin >= offset) & (sizes >= 0) & (sizes <= limit[:, None]))
        checksums = reader.checksums(ids, wanted[:, 0], wanted[:, -1] + 1 - wanted[:, 0])
        blobs = reader.read(ids, m.video_offset[ids] + offset[:, 0], (begin + sizes - offset)[:, -1])
        images = np.zeros((*begin.shape, sizes.max(initial=0)), dtype=np.uint8)
        places = zip((begin - offset).tolist(), sizes.tolist(), strict=True)
        for row, (clip, blob, (starts, lengths)) in enumerate(zip(images, blobs, places, strict=True)):
            parts = [blob[start : start + length] for start, length in zip(starts, lengths, strict=True)]
            for image, part in zip(clip, parts, strict=True):
                image[: len(part)] = part
            if (stored := checksums[row]) is not None:
                expected = [stored[place] for place in (wanted[row] - wanted[row, 0]).tolist()]
                reader.compare(
                    int(ids[row]),
                    [crc32c(part.data) for part in parts],
                    expected,
                    "frame",
                    numbers=wanted[row].tolist(),
                )
        images = images.reshape(begin.size, images.shape[2])
        valid = _are_jpegs(images, sizes.reshape(-1), shape.repeat(reader.frames, axis=0))
        _check(reader, ids, valid.reshape(begin.shape))
        return {"encoded": images}

    def samples_per_clip(self, frames: int) -> int:
        return frames

    def decode(self, *, device: str, frames: int, stride: int) -> Any:
        """See `Codec.decode`: per frame, [H, W, 3] on a GPU and the `cpu_window`, [h, w, 3], on a CPU."""
        from nvidia.dali import fn
        from nvidia.dali.types import DALIDataType, DALIImageType

        encoded = fn.external_source(name="encoded", dtype=DALIDataType.UINT8, ndim=1)
        if device == "mixed":
            # Fancy upsampling of the chroma, as the CPU decoder always does.
            return fn.decoders.image(encoded, device=device, output_type=DALIImageType.RGB, jpeg_fancy_upsampling=True)
        corner, shape = (
            fn.external_source(name=name, dtype=DALIDataType.INT32, ndim=1) for name in ("corner", "shape")
        )
        return fn.decoders.image_slice(
            encoded, start=corner, shape=shape, axes=[0, 1], device=device, output_type=DALIImageType.RGB
        )

    def cpu_window(self, plan: ClipPlan, *, widths: np.ndarray, heights: np.ndarray) -> np.ndarray:
        """The crop or, if its rows are nearly complete, the crop's complete rows.

        If a crop cuts rows on both sides, libjpeg-turbo first writes more pixels, bypassing the caches, and the decoder
        then reads them back. This takes as long as decoding about 128 pixels per row.
        """
        rows = plan.window.copy()
        rows[:, 1], rows[:, 3] = 0, widths
        return np.where((rows - plan.window)[:, 3:] <= _SPARED_PIXELS, rows, plan.window)

    def cpu_arguments(self, window: np.ndarray, *, frames: int) -> Inputs:
        """`corner` (top left) and `shape` of the window, int32 [B * T, 2] as (y, x)."""
        corner, shape = np.split(window.astype(np.int32), 2, axis=1)
        return {"corner": corner.repeat(frames, axis=0), "shape": shape.repeat(frames, axis=0)}


def _check(reader: ShardReader, ids: np.ndarray, valid: np.ndarray) -> None:
    """Raises ShardError for the first sample with a frame that is not valid; `valid` is bool [B, T]."""
    if not valid.all():
        row = int(np.argmin(valid)) // valid.shape[1]
        raise reader.mismatch(int(ids[row]), "there is no JPEG image where the manifest says")


def _are_jpegs(images: np.ndarray, lengths: np.ndarray, shapes: np.ndarray) -> np.ndarray:
    """Which images are baseline JPEGs of the expected size whose segments can be parsed up to the scan.

    An image whose segments cannot be parsed makes DALI's image decoder crash some batches later (seen in 2.4.0). All
    images are parsed in parallel with NumPy, because the training step waits while Python holds the GIL.

    Args:
        images: uint8 [N, size of the longest image], one image per row.
        lengths: int64 [N], bytes of each image.
        shapes: int64 [N, 2], expected (height, width) of each image.

    Returns:
        bool [N].
    """
    valid = np.zeros(len(images), dtype=bool)
    sized = valid.copy()
    rows = np.flatnonzero(lengths >= 2)
    first, second = _bytes(images, rows, np.zeros_like(rows), 2)
    rows = rows[(first == 0xFF) & (second == 0xD8)]
    places = np.full(len(rows), 2)
    while len(rows):
        complete = places + 4 <= lengths[rows]
        rows, places = rows[complete], places[complete]
        marker, kind, high, low = _bytes(images, rows, places, 4)
        length = 256 * high + low
        valid[rows[(marker == 0xFF) & (length >= 2) & (kind == 0xDA) & sized[rows]]] = True
        frame = np.flatnonzero((kind == 0xC0) & (length == 17) & (places + 10 <= lengths[rows]))
        at = rows[frame]
        bits, *size, channels = _bytes(images, at, places[frame] + 4, 6)
        height, width = 256 * size[0] + size[1], 256 * size[2] + size[3]
        sized[rows[kind == 0xC0]] = False
        sized[at] = (bits == 8) & (channels == 3) & (height == shapes[at, 0]) & (width == shapes[at, 1])
        more = (marker == 0xFF) & (length >= 2) & (kind != 0xDA)
        rows, places = rows[more], (places + 2 + length)[more]
    return valid


def _bytes(images: np.ndarray, rows: np.ndarray, places: np.ndarray, count: int) -> np.ndarray:
    """`count` bytes of each of `rows`, starting at column `places` of the row; int64 [count, len(rows)]."""
    return images[rows, places + np.arange(count)[:, None]].astype(np.int64)
