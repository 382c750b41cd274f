"""Encodes normalised frames into a video blob, the video member of a sample in a shard."""

from __future__ import annotations

from typing import Literal

import av
import av.error
from av.video.frame import PictureType, VideoFrame

from pipeline.shards.codecs import CODECS, VideoBlob, frame_rate
from settings import StorageConfig


class BlobEncoder:
    """Encodes frames one at a time, so that only the encoded bytes, not the frames, are held in memory."""

    def __init__(self, *, storage: StorageConfig, width: int, height: int) -> None:
        self._storage = storage
        self._codec = CODECS[storage.codec]
        self._rate = frame_rate(storage.fps)
        self._size = (width, height)
        self._encoder = self._open_encoder()
        self._packets: list[bytes] = []
        self._sent = 0

    def add(self, frame: VideoFrame) -> None:
        """Appends a frame, which must have the codec's pixel format and the width and height of this encoder."""
        frame.pts = self._sent
        frame.time_base = 1 / self._rate
        # Override the key frames of the source: groups of pictures (GOPs) have a fixed length.
        frame.pict_type = PictureType.I if self._sent % self._storage.gop == 0 else PictureType.NONE
        self._sent += 1
        self._packets += [bytes(packet) for packet in self._encoder.encode(frame)]

    def finish(self) -> VideoBlob:
        """Flushes the encoder, decodes its whole output to verify it, and returns the blob.

        Raises:
            RuntimeError: the loader could not rely on the output: frames are missing, a group of pictures does not
                begin with a key frame, or a frame cannot be decoded.
        """
        self._packets += [bytes(packet) for packet in self._encoder.encode(None)]
        self._verify()
        width, height = self._size
        return self._codec.pack(self._packets, width=width, height=height, rate=self._rate)

    def _open_encoder(self) -> av.VideoCodecContext:
        storage, encoder = self._storage, _video_codec(self._codec.encoder, "w")
        encoder.width, encoder.height = self._size
        encoder.time_base, encoder.framerate = 1 / self._rate, self._rate
        # One thread: the bytes must not depend on the machine, and preparation encodes one video per core anyway.
        encoder.thread_count = 1
        encoder.pix_fmt = self._codec.pixel_format
        self._codec.configure(encoder, quality=storage.quality or self._codec.default_quality, gop=storage.gop)
        return encoder

    def _verify(self) -> None:
        if len(self._packets) != self._sent:
            raise RuntimeError(f"the encoder made {len(self._packets)} packets for {self._sent} frames")
        decoder = _video_codec(self._codec.decoder, "r")
        decoder.thread_count = 1
        for index, data in enumerate(self._packets):
            try:
                pictures = decoder.decode(av.Packet(data))
            except av.error.FFmpegError as error:
                raise RuntimeError(f"encoded frame {index} cannot be decoded: {error}") from None
            if len(pictures) != 1 or (pictures[0].width, pictures[0].height) != self._size:
                raise RuntimeError(f"encoded frame {index} does not decode to one frame of size {self._size}")
            if index % self._storage.gop == 0 and not pictures[0].key_frame:
                raise RuntimeError(f"encoded frame {index} begins a group of pictures but is not a key frame")


def _video_codec(name: str, mode: Literal["r", "w"]) -> av.VideoCodecContext:
    codec = av.CodecContext.create(name, mode)
    assert isinstance(codec, av.VideoCodecContext)
    return codec
