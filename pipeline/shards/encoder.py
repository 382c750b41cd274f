"""Encodes normalised frames into a seekable blob: bytes plus the size of each frame in them."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

import av
import av.error
from av.video.frame import PictureType, VideoFrame

from settings import StorageConfig

IVF_HEADER_BYTES = 32
_IVF_FRAME_HEADER = struct.Struct("<IQ")
_DEFAULT_QUALITY = {"vp9": 30, "jpeg": 4}
SUFFIX = {"vp9": "ivf", "jpeg": "mjpeg"}
"""Suffix of the shard member that holds the blob, by storage.codec."""


@dataclass(frozen=True, kw_only=True)
class VideoBlob:
    """A stored video.

    Attributes:
        data: for vp9 an IVF file (32-byte header whose frame count is 0, then frames, each with its 12-byte header);
            for jpeg the JPEG images one after the other.
        frame_bytes: size of each frame in `data`, its header included.
        first_frame: byte of `data` where the first frame begins.
        width, height: pixels.
    """

    data: bytes
    frame_bytes: list[int]
    first_frame: int
    width: int
    height: int


def frame_rate(fps: float) -> Fraction:
    """The frame rate as a fraction that codecs accept: 29.97 is 2997/100."""
    return Fraction(fps).limit_denominator(1001)


class BlobEncoder:
    """Takes frames one by one, so that memory does not grow with the length of a video beyond its encoded bytes."""

    def __init__(self, *, storage: StorageConfig, width: int, height: int) -> None:
        self._storage = storage
        self._rate = frame_rate(storage.fps)
        self._codec = _open_encoder(storage, width, height, self._rate)
        self._size = (width, height)
        self._packets: list[bytes] = []
        self._sent = 0

    def add(self, frame: VideoFrame) -> None:
        """Appends a frame: yuv420p, for jpeg in full range, of the width and height of this encoder."""
        frame.pts = self._sent
        frame.time_base = 1 / self._rate
        # The source's own key frames must not become ours: groups of pictures have a fixed length.
        frame.pict_type = PictureType.I if self._sent % self._storage.gop == 0 else PictureType.NONE
        self._sent += 1
        self._packets += [bytes(packet) for packet in self._codec.encode(frame)]

    def finish(self) -> VideoBlob:
        """Flushes the encoder and checks the result by decoding all of it.

        Raises:
            RuntimeError: the encoder's output is not what the loader relies on (frames missing, a key frame not where
                a group of pictures begins, a picture that does not decode).
        """
        self._packets += [bytes(packet) for packet in self._codec.encode(None)]
        self._verify()
        width, height = self._size
        if self._storage.codec == "jpeg":
            sizes = [len(packet) for packet in self._packets]
            return VideoBlob(data=b"".join(self._packets), frame_bytes=sizes, first_frame=0, width=width, height=height)
        return VideoBlob(
            data=b"".join(self._ivf()),
            frame_bytes=[_IVF_FRAME_HEADER.size + len(packet) for packet in self._packets],
            first_frame=IVF_HEADER_BYTES,
            width=width,
            height=height,
        )

    def _ivf(self) -> Iterator[bytes]:
        width, height = self._size
        rate = self._rate
        # The frame count stays 0: DALI loops for ever when it promises more frames than a slice of the blob holds.
        yield struct.pack(
            "<4sHH4sHHIIII",
            b"DKIF",
            0,
            IVF_HEADER_BYTES,
            b"VP90",
            width,
            height,
            rate.numerator,
            rate.denominator,
            0,
            0,
        )
        for index, packet in enumerate(self._packets):
            yield _IVF_FRAME_HEADER.pack(len(packet), index)
            yield packet

    def _verify(self) -> None:
        if len(self._packets) != self._sent:
            raise RuntimeError(f"the encoder made {len(self._packets)} packets of {self._sent} frames")
        decoder = _video_codec("vp9" if self._storage.codec == "vp9" else "mjpeg", "r")
        decoder.thread_count = 1
        for index, data in enumerate(self._packets):
            try:
                pictures = decoder.decode(av.Packet(data))
            except av.error.FFmpegError as error:
                raise RuntimeError(f"encoded frame {index} does not decode: {error}") from None
            if len(pictures) != 1 or (pictures[0].width, pictures[0].height) != self._size:
                raise RuntimeError(f"encoded frame {index} does not decode to one picture of {self._size}")
            if index % self._storage.gop == 0 and not pictures[0].key_frame:
                raise RuntimeError(f"encoded frame {index} begins a group of pictures but is no key frame")


def _video_codec(name: str, mode: Literal["r", "w"]) -> av.VideoCodecContext:
    codec = av.CodecContext.create(name, mode)
    assert isinstance(codec, av.VideoCodecContext)
    return codec


def _open_encoder(storage: StorageConfig, width: int, height: int, rate: Fraction) -> av.VideoCodecContext:
    quality = storage.quality or _DEFAULT_QUALITY[storage.codec]
    codec = _video_codec("libvpx-vp9" if storage.codec == "vp9" else "mjpeg", "w")
    codec.width, codec.height = width, height
    codec.time_base, codec.framerate = 1 / rate, rate
    # One thread: the bytes must not depend on the machine, and every core has its own video anyway.
    codec.thread_count = 1
    if storage.codec == "jpeg":
        codec.pix_fmt = "yuvj420p"
        # Not global_quality: FFmpeg's program copies that to each frame, which PyAV cannot, and a frame without has 2.
        codec.options = {"qmin": str(quality), "qmax": str(quality)}
        return codec
    codec.pix_fmt = "yuv420p"
    codec.gop_size = storage.gop
    # No alt-ref frames and no lag: frames come out one by one in display order, which NVDEC's users need.
    # realtime 5 against good 4: a quarter of the time, the same PSNR, a tenth more bytes (at 256x144).
    codec.options = {
        "b": "0",
        "crf": str(quality),
        "deadline": "realtime",
        "cpu-used": "5",
        "keyint_min": str(storage.gop),
        "auto-alt-ref": "0",
        "lag-in-frames": "0",
    }
    return codec
