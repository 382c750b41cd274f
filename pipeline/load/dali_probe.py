"""Tests what DALI can decode on this machine."""

from __future__ import annotations

import ctypes
import functools
import logging
from typing import Literal

import numpy as np
import torch
from av.video.frame import VideoFrame
from nvidia.dali import Pipeline, fn

from pipeline.shards.codecs import CODECS
from pipeline.shards.encoder import BlobEncoder
from settings import StorageConfig

NVDEC_SMALLEST_VP9 = 128
"""Smallest short side, in pixels, that NVDEC accepts for VP9."""

_log = logging.getLogger(__name__)


def decode_with_dali(codec: Literal["vp9", "jpeg"], *, gpu: bool) -> None:
    """Encodes 8 grey frames as pipeline.prepare does and decodes them with DALI, on torch's current GPU if `gpu`.

    Raises:
        RuntimeError: DALI fails, or the decoded frames differ from the original ones.
    """
    size, count = 144, 8
    encoder = BlobEncoder(storage=StorageConfig(codec=codec), width=size, height=size)
    picture = np.full((size, size, 3), 128, dtype=np.uint8)
    for _ in range(count):
        encoder.add(VideoFrame.from_ndarray(picture).reformat(format=CODECS[codec].pixel_format))
    blob = encoder.finish()
    is_video = CODECS[codec].samples_per_clip(count) == 1
    end = None if is_video else blob.frame_bytes[0]
    device_id = torch.cuda.current_device() if gpu else None
    pipe = Pipeline(batch_size=1, num_threads=1, device_id=device_id, prefetch_queue_depth=1)
    with pipe:
        encoded = fn.external_source(name="encoded")
        device = "mixed" if gpu else "cpu"
        if is_video:
            frames = fn.decoders.video(encoded, device=device, start_frame=0, sequence_length=count)
        else:
            frames = fn.decoders.image(encoded, device=device)
        pipe.set_outputs(frames.cpu() if gpu else frames)
    pipe.feed_input("encoded", [np.frombuffer(blob.data[:end], dtype=np.uint8)])
    (output,) = pipe.run()
    error = np.abs(np.asarray(output.at(0)).astype(int) - 128).max()
    if error > 16:
        raise RuntimeError(f"decoded pixel values are off by up to {error} of 255")


def nvdec_takes(shortest_side: int) -> bool:
    """Whether NVDEC decodes stored VP9 frames whose shortest side is `shortest_side` pixels; logs a warning if not."""
    if not _nvdec_works():
        return False
    if shortest_side < NVDEC_SMALLEST_VP9:
        _log.warning(
            "the shortest side of the stored frames is %d pixels, but NVDEC decodes VP9 only from %d: "
            "decoding on the CPU, the rest on the GPU",
            shortest_side,
            NVDEC_SMALLEST_VP9,
        )
        return False
    return True


@functools.cache
def _nvdec_works() -> bool:
    """Whether NVDEC decodes VP9 on this machine; logs a warning if not. Cached, because every graph checks."""
    try:
        ctypes.CDLL("libnvcuvid.so.1")
    except OSError:
        _log.warning(
            "NVDEC (libnvcuvid.so.1) is not available: decoding on the CPU, the rest on the GPU. In a container, "
            "give it the `video` capability (NVIDIA_DRIVER_CAPABILITIES=compute,utility,video)"
        )
        return False
    try:
        decode_with_dali("vp9", gpu=True)
    except RuntimeError as error:
        # A machine can have the library but no decoder, e.g. on a slice of a GPU (MIG). Without this test, every sample
        # would seem to be damaged.
        reason = " ".join(str(error).split())
        _log.warning("NVDEC does not decode VP9 here: decoding on the CPU, the rest on the GPU. DALI says: %s", reason)
        return False
    return True
