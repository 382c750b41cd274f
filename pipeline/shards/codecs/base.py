"""The codec interface that preparation and the loaders use."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import av
import numpy as np

from pipeline.plan.clips import ClipPlan
from pipeline.shards.reader import ShardReader

Inputs = dict[str, "np.ndarray | list[np.ndarray]"]
"""Maps the name of a DALI external source to its batch: an array with the batch as first axis, or a list of arrays."""


@dataclass(frozen=True, kw_only=True)
class VideoBlob:
    """An encoded video as it is stored in a shard.

    Attributes:
        data: content of the shard member.
        frame_bytes: size of each frame in `data`, in bytes, including its frame header.
        first_frame: byte offset in `data` of the first frame.
        width, height: frame size in pixels.
    """

    data: bytes
    frame_bytes: list[int]
    first_frame: int
    width: int
    height: int


class Codec(ABC):
    """How frames are stored in a shard, read from it and decoded by DALI."""

    suffix: str
    """Suffix of the shard member; also FFmpeg's name of its container format."""
    encoder: str
    """FFmpeg's name of the encoder."""
    decoder: str
    """FFmpeg's name of the decoder with which preparation verifies each frame."""
    pixel_format: str
    """FFmpeg's name of the pixel format that the encoder expects; yuvj420p is yuv420p with full range."""
    default_quality: int
    """Quality to use if storage.quality is 0."""
    needs_nvdec: bool
    """Whether only NVDEC can decode this codec on a GPU; data.vp9_decoder enables NVDEC."""

    @property
    def full_range(self) -> bool:
        """Whether luma ranges from 0 to 255; otherwise it ranges from 16 to 235."""
        return self.pixel_format.startswith("yuvj")

    @abstractmethod
    def configure(self, encoder: av.VideoCodecContext, *, quality: int, gop: int) -> None:
        """Sets the encoder's options: quality, and a key frame every `gop` frames."""

    @abstractmethod
    def pack(self, packets: Sequence[bytes], *, width: int, height: int, rate: Fraction) -> VideoBlob:
        """Joins the encoder's packets, one per frame, into the content of a shard member."""

    @abstractmethod
    def read(self, reader: ShardReader, plan: ClipPlan) -> Inputs:
        """Reads the encoded frames of each clip, and checks their headers, because damaged ones hang or crash DALI.

        Returns:
            `encoded` and the other inputs of `decode`, except those of `cpu_arguments`.

        Raises:
            ShardError: the shard does not hold what the manifest promises; the error names the sample.
        """

    @abstractmethod
    def samples_per_clip(self, frames: int) -> int:
        """Number of DALI samples per clip of `frames` frames: one, or one per frame."""

    @abstractmethod
    def decode(self, *, device: str, frames: int, stride: int) -> Any:
        """DALI operators that decode the bytes from `read`; call it within a pipeline definition.

        Implementations import DALI here, so that preparation does not load it.

        Args:
            device: DALI's name of the device that decodes: cpu, or mixed for the GPU.
            frames: T, number of frames per clip.
            stride: stored frames from one frame of a clip to the next.

        Returns:
            uint8 RGB; the shape depends on the codec.
        """

    @abstractmethod
    def cpu_window(self, plan: ClipPlan, *, widths: np.ndarray, heights: np.ndarray) -> np.ndarray:
        """The region of each clip's frames that is decoded on a CPU, int64 [B, 4] as (top, left, height, width).

        It contains the clip's crop.

        Args:
            plan: B clips.
            widths, heights: int [B], size of the stored frames in pixels.
        """

    @abstractmethod
    def cpu_arguments(self, window: np.ndarray, *, frames: int) -> Inputs:
        """Inputs of `decode` on a CPU in addition to those of `read`, for the `cpu_window` of each clip."""


def frame_rate(fps: float) -> Fraction:
    """The frame rate as a fraction that codecs accept: 29.97 is 2997/100."""
    return Fraction(fps).limit_denominator(1001)
