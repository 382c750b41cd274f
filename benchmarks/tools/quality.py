"""Measures how close stored frames are to their source."""

from __future__ import annotations

import io
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from benchmarks.tools.corpus import at_rate
from pipeline.shards.codecs import CODECS
from pipeline.shards.manifest import Manifest


def psnr_to_source(source: Path, stored: list[np.ndarray], *, fps: float) -> float:
    """PSNR of the luma in dB between stored frames and the source, scaled to the same size.

    Args:
        stored: uint8 [H, W, 3] RGB, the first frames at a rate of `fps`.
    """
    height, width = stored[0].shape[:2]
    errors = []
    with av.open(str(source)) as container:
        for frame, image in zip(at_rate(container, Fraction(fps)), stored, strict=False):
            true = frame.reformat(width, height, format="rgb24", interpolation="BICUBIC").to_ndarray()
            errors.append(np.mean((_luma(true) - _luma(image)) ** 2))
    return float(10 * np.log10(255**2 / np.mean(errors)))


def shard_frames(folder: Path, *, count: int) -> tuple[list[list[np.ndarray]], float, int]:
    """The first `count` frames of every sample in prepared shards, and the samples' total seconds and video bytes."""
    manifest = Manifest.open(folder)
    videos = []
    total = 0
    for i in range(len(manifest)):
        first = manifest.frame_start[i]
        frames = int(manifest.frames[i])
        offsets = manifest.frame_offsets[first : first + frames + 1].astype(np.int64)
        total += int(offsets[-1])
        with open(folder / manifest.shards[manifest.shard[i]], "rb") as shard:
            shard.seek(int(manifest.video_offset[i]))
            blob = shard.read(int(offsets[-1]))
        videos.append(_decode(blob, CODECS[manifest.storage.codec].suffix, min(count, frames)))
    seconds = float((manifest.frames / manifest.storage.fps).sum())
    return videos, seconds, total


def _decode(blob: bytes, form: str, count: int) -> list[np.ndarray]:
    with av.open(io.BytesIO(blob), format=form) as container:
        frames = container.decode(video=0)
        return [next(frames).to_ndarray(format="rgb24") for _ in range(count)]


def _luma(image: np.ndarray) -> np.ndarray:
    return image.astype(np.float64) @ np.array([0.299, 0.587, 0.114])
