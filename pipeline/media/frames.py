"""Reads the best video and audio track of an open file: frames on one growing clock, and a count of what fails."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import av
import av.error
from av.container import InputContainer

from pipeline.media.clock import JoinedClock, may_jump
from pipeline.media.opening import check_decoder, is_cover_art
from pipeline.media.rejection import RejectedSource


class FrameReader:
    """Demuxes and decodes the tracks of a file.

    Args:
        container: the file, as `open_media` returns it.
        streams: the tracks to read: both, video or audio.
        max_pixels: largest width times height of a frame.

    Attributes:
        video, audio: the streams; None for a track that is not read.
        packets, errors: number of packets read, and of those that failed, by kind of track (video, audio).
        clock: the clock of the packets since `read` was called.

    Raises:
        RejectedSource: the file lacks a track, its decoder is not accepted, or its frames are too large.
    """

    def __init__(self, container: InputContainer, *, streams: str, max_pixels: int) -> None:
        self._container = container
        self._max_pixels = max_pixels
        self.clock = JoinedClock(jumps=may_jump(container))
        self.packets = {"video": 0, "audio": 0}
        self.errors = {"video": 0, "audio": 0}
        self.video: Any = self._find_video() if streams != "audio" else None
        self.audio: Any = self._find_audio() if streams != "video" else None
        self.streams: list[Any] = [stream for stream in (self.video, self.audio) if stream is not None]

    def read(self) -> Iterator[av.Packet]:
        """Yields the packets from here on in the order of the file, with time stamps that never start again."""
        self.clock = JoinedClock(jumps=may_jump(self._container))
        yield from self.clock.steady(self._demux())

    def decode(self, packet: av.Packet) -> list[Any]:
        """Returns the frames of a packet; none if it cannot be decoded, which is counted.

        Raises:
            RejectedSource: a frame has too many pixels.
            MemoryError: decoding needs more memory than the process may use.
        """
        kind = packet.stream.type
        self.packets[kind] += packet.size > 0
        try:
            frames = packet.decode()
        except (av.error.FFmpegError, ValueError) as error:
            if isinstance(error, MemoryError):
                raise
            self.errors[kind] += not isinstance(error, av.error.EOFError)
            return []
        for frame in frames:
            if isinstance(frame, av.VideoFrame) and frame.width * frame.height > self._max_pixels:
                raise RejectedSource("too many pixels", f"a frame has {frame.width} x {frame.height}")
        return frames

    def pixel_aspect(self) -> Fraction:
        """Width over height of one pixel of the video."""
        assert self.video is not None
        aspect = self.video.sample_aspect_ratio or self.video.codec_context.sample_aspect_ratio or 1
        # No camera has more elongated pixels; such a value comes from a damaged header.
        return Fraction(aspect) if 1 / 4 <= aspect <= 4 else Fraction(1)

    def frame_seconds(self, default: Fraction) -> float:
        """Duration in seconds of a frame, from the stated rate of the video or else from the rate `default`."""
        assert self.video is not None
        return float(1 / (self.video.average_rate or self.video.guessed_rate or default))

    def _find_video(self) -> Any:
        streams = self._container.streams.video
        videos = [stream for stream in streams if not is_cover_art(stream)]
        if not videos:
            raise RejectedSource("no video track", "it has only cover art" if streams else self._inventory())
        best = self._container.streams.best("video")
        stream = best if best in videos else videos[0]
        context = check_decoder(stream)
        if context.width * context.height > self._max_pixels:
            detail = f"{context.width} x {context.height}, more than max_pixels={self._max_pixels}"
            raise RejectedSource("too many pixels", detail)
        return stream

    def _find_audio(self) -> Any:
        stream = self._container.streams.best("audio")
        if stream is None:
            raise RejectedSource("no audio track", self._inventory())
        check_decoder(stream)
        return stream

    def _inventory(self) -> str:
        kinds = [stream.type for stream in self._container.streams if stream.type]
        return f"it has only: {', '.join(kinds)}" if kinds else "it has no tracks"

    def _demux(self) -> Iterator[av.Packet]:
        packets = self._container.demux(self.streams)
        while True:
            try:
                yield next(packets)
            except StopIteration:
                return
            except av.error.FFmpegError as error:
                if isinstance(error, MemoryError):
                    raise
                self.errors[self.streams[0].type] += 1
                return
