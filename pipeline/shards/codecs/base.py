"""What preparation and the loaders need to know about a codec."""

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
"""Name of a DALI external source -> its values for a batch: an array with the batch in front, or a list of arrays."""


@dataclass(frozen=True, kw_only=True)
class VideoBlob:
    """A stored video.

    Attributes:
        data: the member of the shard.
        frame_bytes: size of each frame in `data`, its header included.
        first_frame: byte of `data` where the first frame begins.
        width, height: pixels.
    """

    data: bytes
    frame_bytes: list[int]
    first_frame: int
    width: int
    height: int


class Codec(ABC):
    """How frames are stored in a shard, read from it and decoded by DALI."""

    suffix: str
    """Suffix of the shard member, and FFmpeg's name of its container format."""
    encoder: str
    """FFmpeg's name of the encoder."""
    decoder: str
    """FFmpeg's name of the decoder, with which preparation checks each frame."""
    pixel_format: str
    """Pixel format that the encoder takes; yuvj420p is yuv420p in full range."""
    default_quality: int
    """The quality that storage.quality=0 stands for."""
    needs_nvdec: bool
    """Whether a GPU decodes it by NVDEC, which is optional (data.vp9_decoder)."""

    @property
    def full_range(self) -> bool:
        """Whether luma takes values from 0 to 255; otherwise it takes values from 16 to 235."""
        return self.pixel_format.startswith("yuvj")

    @abstractmethod
    def configure(self, encoder: av.VideoCodecContext, *, quality: int, gop: int) -> None:
        """Sets the encoder's options: quality, and a key frame every `gop` frames."""

    @abstractmethod
    def pack(self, packets: Sequence[bytes], *, width: int, height: int, rate: Fraction) -> VideoBlob:
        """Joins the encoder's packets, one per frame, into the member of a shard."""

    @abstractmethod
    def read(self, reader: ShardReader, plan: ClipPlan) -> Inputs:
        """Reads the encoded frames of each clip, and checks their headers: damaged ones hang or crash DALI.

        Returns:
            `encoded` and whatever else the operators of `decode` take.

        Raises:
            ShardError: the shard does not hold what the manifest promises; the error names the sample.
        """

    @abstractmethod
    def samples_per_clip(self, frames: int) -> int:
        """DALI samples that a clip of `frames` frames enters the graph as."""

    @abstractmethod
    def decode(self, *, device: str, frames: int, stride: int) -> Any:
        """DALI's operators from bytes to frames, within a pipeline that is being defined; the only use of DALI here.

        Args:
            device: DALI's word for where to decode: cpu, or mixed for the GPU.
            frames, stride: T, and stored frames from one frame of the clip to the next.

        Returns:
            uint8 RGB; see each codec for the shape.
        """

    @abstractmethod
    def cpu_window(self, plan: ClipPlan, *, widths: np.ndarray, heights: np.ndarray) -> np.ndarray:
        """The part of each clip's frames that is decoded on a CPU, int64 [B, 4] as (top, left, height, width).

        Args:
            plan: B clips.
            widths, heights: [B], pixels of the stored frames.
        """

    @abstractmethod
    def cpu_arguments(self, window: np.ndarray, *, frames: int) -> Inputs:
        """Inputs of `decode` on a CPU beyond those of `read`, for the `cpu_window` of each clip."""


def frame_rate(fps: float) -> Fraction:
    """The frame rate as a fraction that codecs accept: 29.97 is 2997/100."""
    return Fraction(fps).limit_denominator(1001)
