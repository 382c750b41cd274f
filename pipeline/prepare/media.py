"""One media file -> normalised tracks on one clock. Meant for a worker process: a decoder may crash or hang."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import av.error
import numpy as np
from av.container import InputContainer
from numpy.typing import NDArray

from pipeline.prepare.audio_track import AudioTrack
from pipeline.prepare.rejection import RejectedSource, content_problem, file_problem, open_problem
from pipeline.prepare.video_track import VideoTrack
from pipeline.shards.codecs import VideoBlob, frame_rate
from settings import PrepareConfig

# A track of which more packets than this share fail to decode is refused as damaged, not repaired.
_MAX_ERROR_SHARE = 0.25


@dataclass(frozen=True, kw_only=True)
class NormalisedMedia:
    """A sample: t = 0 is the first video frame's presentation time (the first sound's, where only sound is wanted).

    Attributes:
        video: encoded track, None with streams=audio.
        pcm: int16 [samples] mono, None with streams=video; samples == round(frames / fps * sample_rate) with both.
        flags: what is unusual about the source; empty for an ordinary one. decode_errors (packets), ends_early_seconds,
            cut_at_max_seconds, still_picture, picture_held_seconds, silence_added_seconds, stamps_run_backwards,
            interlaced, size_changes, cropped_to_aspect.
    """

    video: VideoBlob | None
    pcm: NDArray[np.int16] | None
    flags: dict[str, Any]


def normalise(path: str | Path, config: PrepareConfig) -> NormalisedMedia:
    """Decodes the file once and stores its tracks as the config says.

    Raises:
        RejectedSource: with a reason for the person who owns the file.
        MemoryError: the process may not have as much as decoding needs.
    """
    path = Path(path)
    if problem := file_problem(path) or content_problem(path):
        raise problem
    try:
        with _open(path, config) as container:
            return _Normaliser(container, config).run()
    except MemoryError:
        raise
    except av.error.FFmpegError as error:
        raise RejectedSource("truncated or damaged", error.strerror or str(error)) from None


def _open(path: Path, config: PrepareConfig) -> InputContainer:
    # max_pixels also guards against a header that says less than the stream; the protocol list keeps playlists in
    # disguise from reaching the network.
    options = {"max_pixels": str(config.max_pixels)}
    try:
        return av.open(
            str(path.absolute()),
            options=options,
            container_options={"protocol_whitelist": "file"},
            metadata_errors="replace",
        )
    except (av.error.FFmpegError, ValueError) as error:
        if isinstance(error, MemoryError):
            raise
        raise open_problem(path, error) from None


class _Normaliser:
    def __init__(self, container: InputContainer, config: PrepareConfig) -> None:
        self._container = container
        self._config = config
        self._streams: list[Any] = []
        self._picture: VideoTrack | None = None
        self._sound: AudioTrack | None = None
        self._packets = {"video": 0, "audio": 0}
        self._errors = {"video": 0, "audio": 0}
        if config.streams != "audio":
            self._picture = self._add_video()
        if config.streams != "video":
            self._sound = self._add_audio()

    def run(self) -> NormalisedMedia:
        for packet in self._demux():
            self._decode(packet)
            if self._picture is not None and self._picture.start is not None and self._sound is not None:
                self._sound.stop_at = self._picture.start + self._config.max_seconds
            if self._picture is not None and self._picture.full and self._sound_done():
                break
        return self._finish()

    def _add_video(self) -> VideoTrack:
        streams = self._container.streams.video
        pictures = [stream for stream in streams if not stream.disposition & av.stream.Disposition.attached_pic]
        if not pictures:
            raise RejectedSource("no video track", "only a cover picture" if streams else self._inventory())
        best = self._container.streams.best("video")
        stream = best if best in pictures else pictures[0]
        context = self._decoder(stream, "video")
        if context.width * context.height > self._config.max_pixels:
            limit = self._config.max_pixels
            raise RejectedSource("too many pixels", f"{context.width} x {context.height}, more than max_pixels={limit}")
        aspect = stream.sample_aspect_ratio or context.sample_aspect_ratio or 1
        rate = stream.average_rate or stream.guessed_rate or frame_rate(self._config.storage.fps)
        return VideoTrack(
            storage=self._config.storage,
            # No camera has pixels more oblong than this; damaged headers do.
            pixel_aspect=Fraction(aspect) if 1 / 4 <= aspect <= 4 else Fraction(1),
            frame_seconds=float(1 / rate),
            max_seconds=self._config.max_seconds,
        )

    def _add_audio(self) -> AudioTrack:
        stream = self._container.streams.best("audio")
        if stream is None:
            raise RejectedSource("no audio track", self._inventory())
        self._decoder(stream, "audio")
        return AudioTrack(sample_rate=self._config.sample_rate)

    def _decoder(self, stream: Any, kind: str) -> Any:
        context = stream.codec_context
        if context is None:
            raise RejectedSource("unknown codec", f"FFmpeg has no decoder for the {kind} track")
        # One thread a worker: all cores have a worker already, and frame threads multiply memory.
        context.thread_count = 1
        self._streams.append(stream)
        return context

    def _inventory(self) -> str:
        kinds = [stream.type for stream in self._container.streams if stream.type]
        return f"it has: {', '.join(kinds) or 'nothing'}"

    def _demux(self) -> Iterator[av.Packet]:
        packets = self._container.demux(self._streams)
        while True:
            try:
                yield next(packets)
            except StopIteration:
                return
            except av.error.FFmpegError as error:
                if isinstance(error, MemoryError):
                    raise
                self._errors[self._streams[0].type] += 1
                return

    def _decode(self, packet: av.Packet) -> None:
        kind = packet.stream.type
        self._packets[kind] += packet.size > 0
        try:
            frames = packet.decode()
        except (av.error.FFmpegError, ValueError) as error:
            if isinstance(error, MemoryError):
                raise
            self._errors[kind] += not isinstance(error, av.error.EOFError)
            return
        for frame in frames:
            if isinstance(frame, av.VideoFrame) and frame.width * frame.height > self._config.max_pixels:
                raise RejectedSource("too many pixels", f"a frame of {frame.width} x {frame.height}")
            try:
                if isinstance(frame, av.VideoFrame):
                    assert self._picture is not None
                    self._picture.add(frame)
                else:
                    assert self._sound is not None
                    assert isinstance(frame, av.AudioFrame)
                    self._sound.add(frame)
            except (av.error.FFmpegError, ValueError) as error:
                if isinstance(error, MemoryError):
                    raise
                self._errors[kind] += 1

    def _sound_done(self) -> bool:
        sound = self._sound
        return sound is None or (sound.stop_at is not None and sound.end >= sound.stop_at)

    def _finish(self) -> NormalisedMedia:
        if self._picture is not None:
            self._picture.flush()
        self._refuse_damage()
        if self._picture is None:
            return self._finish_sound()
        picture, sound = self._picture, self._sound
        assert picture.start is not None
        seconds = picture.end
        if sound is not None:
            if picture.frames == 1:
                picture.flags["still_picture"] = True
                seconds = max(seconds, sound.end - picture.start)
            self._refuse_disjoint(picture.start, picture.start + seconds, sound)
        self._refuse_short(seconds)
        video = picture.finish(hold_until=seconds)
        pcm = None
        if sound is not None:
            samples = round(len(video.frame_bytes) / self._config.storage.fps * self._config.sample_rate)
            pcm = sound.finish(start=picture.start, samples=samples)
        return NormalisedMedia(video=video, pcm=pcm, flags=self._flags(seconds))

    def _finish_sound(self) -> NormalisedMedia:
        sound = self._sound
        assert sound is not None
        assert sound.start is not None
        seconds = sound.end - sound.start
        self._refuse_short(seconds)
        if seconds > self._config.max_seconds:
            sound.flags["cut_at_max_seconds"] = True
        samples = round(min(seconds, self._config.max_seconds) * self._config.sample_rate)
        return NormalisedMedia(
            video=None, pcm=sound.finish(start=sound.start, samples=samples), flags=self._flags(seconds)
        )

    def _refuse_damage(self) -> None:
        for kind, track in (("video", self._picture), ("audio", self._sound)):
            if track is None:
                continue
            packets, errors = self._packets[kind], self._errors[kind]
            if track.start is None:
                raise RejectedSource("truncated or damaged", f"nothing of the {kind} track decodes ({packets} packets)")
            if errors > _MAX_ERROR_SHARE * packets:
                raise RejectedSource("truncated or damaged", f"{errors} of {packets} {kind} packets do not decode")

    def _refuse_short(self, seconds: float) -> None:
        if seconds < self._config.min_seconds:
            raise RejectedSource("too short", f"{seconds:.3g} s, less than min_seconds={self._config.min_seconds:g}")

    @staticmethod
    def _refuse_disjoint(start: float, end: float, sound: AudioTrack) -> None:
        assert sound.start is not None
        if sound.end <= start or sound.start >= end:
            detail = f"picture {start:.2f} to {end:.2f} s, sound {sound.start:.2f} to {sound.end:.2f} s"
            raise RejectedSource("no sound during the picture", detail)

    def _flags(self, seconds: float) -> dict[str, Any]:
        flags: dict[str, Any] = {}
        for track in (self._picture, self._sound):
            flags |= track.flags if track is not None else {}
        if errors := sum(self._errors.values()):
            flags["decode_errors"] = errors
        missing = self._missing(seconds)
        if "cut_at_max_seconds" not in flags and missing > max(0.5, 0.1 * seconds):
            flags["ends_early_seconds"] = round(missing, 3)
        return flags

    def _missing(self, seconds: float) -> float:
        """Seconds that the file promises and does not hold."""
        stream, container = self._streams[0], self._container
        if stream.duration is not None:
            return float(stream.duration * stream.time_base) - seconds
        if container.duration is None:
            return 0.0
        # Matroska promises an end for all tracks together.
        ends = [self._sound.end] if self._sound is not None else []
        if self._picture is not None and self._picture.start is not None:
            ends.append(self._picture.start + seconds)
        return ((container.start_time or 0) + container.duration) / av.time_base - max(ends)
