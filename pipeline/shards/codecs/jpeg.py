"""JPEG images one after the other: just the frames of a clip are read, and each enters DALI as a sample."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import av
import numpy as np

from pipeline.plan.clips import ClipPlan
from pipeline.shards.codecs.base import Codec, Inputs, VideoBlob
from pipeline.shards.reader import ShardReader

_HEADER_BYTES = 4096
"""Upper bound for the tables of a baseline JPEG, in bytes."""

_SPARED_PIXELS = 128
"""Pixels of a row that must be spared for a decode of the crop's columns alone to pay off (docs/performance.md)."""


class Jpeg(Codec):
    """storage.codec=jpeg."""

    suffix = "mjpeg"
    encoder = "mjpeg"
    decoder = "mjpeg"
    pixel_format = "yuvj420p"
    default_quality = 4
    needs_nvdec = False

    def configure(self, encoder: av.VideoCodecContext, *, quality: int, gop: int) -> None:
        """Ignores `gop`: every frame is a key frame."""
        # Not global_quality: FFmpeg's program copies that to each frame, which PyAV cannot, and a frame without has 2.
        encoder.options = {"qmin": str(quality), "qmax": str(quality)}

    def pack(self, packets: Sequence[bytes], *, width: int, height: int, rate: Fraction) -> VideoBlob:
        sizes = [len(packet) for packet in packets]
        return VideoBlob(data=b"".join(packets), frame_bytes=sizes, first_frame=0, width=width, height=height)

    def read(self, reader: ShardReader, plan: ClipPlan) -> Inputs:
        """As `Codec.read`: `encoded` is uint8 [B * T, bytes of the longest image], with zeros behind the others.

        No decoder reads the zeros. The last frame is repeated where a sample is shorter than the clip.
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
        # A damaged index could ask for more memory than there is.
        limit = 2 * 3 * shape.prod(axis=1) + _HEADER_BYTES
        _check(reader, ids, (begin >= offset) & (sizes >= 0) & (sizes <= limit[:, None]))
        blobs = reader.read(ids, m.video_offset[ids] + offset[:, 0], (begin + sizes - offset)[:, -1])
        images = np.zeros((*begin.shape, sizes.max(initial=0)), dtype=np.uint8)
        for clip, blob, starts, lengths in zip(images, blobs, (begin - offset).tolist(), sizes.tolist(), strict=True):
            for image, start, length in zip(clip, starts, lengths, strict=True):
                part = blob[start : start + length]
                image[: len(part)] = part
        images = images.reshape(begin.size, images.shape[2])
        valid = _are_jpegs(images, sizes.reshape(-1), shape.repeat(reader.frames, axis=0))
        _check(reader, ids, valid.reshape(begin.shape))
        return {"encoded": images}

    def samples_per_clip(self, frames: int) -> int:
        return frames

    def decode(self, *, device: str, frames: int, stride: int) -> Any:
        """As `Codec.decode`: [H, W, 3] per frame on a GPU; on a CPU the `cpu_window` of each frame, [h, w, 3]."""
        from nvidia.dali import fn
        from nvidia.dali.types import DALIDataType, DALIImageType

        encoded = fn.external_source(name="encoded", dtype=DALIDataType.UINT8, ndim=1)
        if device == "mixed":
            # A CPU always upsamples the chroma in this way.
            return fn.decoders.image(encoded, device=device, output_type=DALIImageType.RGB, jpeg_fancy_upsampling=True)
        corner, shape = (
            fn.external_source(name=name, dtype=DALIDataType.INT32, ndim=1) for name in ("corner", "shape")
        )
        return fn.decoders.image_slice(
            encoded, start=corner, shape=shape, axes=[0, 1], device=device, output_type=DALIImageType.RGB
        )

    def cpu_window(self, plan: ClipPlan, *, widths: np.ndarray, heights: np.ndarray) -> np.ndarray:
        """The crop, or its complete rows where they are not much longer.

        If rows are cut on both sides, libjpeg-turbo first writes more around the caches and the decoder then reads it
        back, which takes as long as decoding some 128 pixels.
        """
        rows = plan.window.copy()
        rows[:, 1], rows[:, 3] = 0, widths
        return np.where((rows - plan.window)[:, 3:] <= _SPARED_PIXELS, rows, plan.window)

    def cpu_arguments(self, window: np.ndarray, *, frames: int) -> Inputs:
        """`corner` and `shape`, int32 [B * T, 2] as (y, x)."""
        corner, shape = np.split(window.astype(np.int32), 2, axis=1)
        return {"corner": corner.repeat(frames, axis=0), "shape": shape.repeat(frames, axis=0)}


def _check(reader: ShardReader, ids: np.ndarray, valid: np.ndarray) -> None:
    """Raises ShardError for the first sample with a frame that is not valid; `valid` is bool [B, T]."""
    if not valid.all():
        row = int(np.argmin(valid)) // valid.shape[1]
        raise reader.mismatch(int(ids[row]), "there is no JPEG image where the manifest says")


def _are_jpegs(images: np.ndarray, lengths: np.ndarray, shapes: np.ndarray) -> np.ndarray:
    """Which rows are baseline JPEGs of their (height, width) whose segments follow one another up to the scan.

    A file whose segments do not parse makes DALI's image decoder crash some batches later (seen in 2.4.0). All rows are
    parsed side by side, because the training step waits while Python parses.

    Args:
        images: uint8 [N, any].
        lengths: int64 [N], bytes of each image.
        shapes: int64 [N, 2].

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
    """`count` bytes of each row, beginning at its place; int64 [count, rows]."""
    return images[rows, places + np.arange(count)[:, None]].astype(np.int64)
