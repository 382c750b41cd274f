"""Decodes a media file to normalised tracks on one time line; runs in a worker, because a decoder may crash or hang."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import av
import av.error
from av.container import InputContainer

from pipeline.media.clock import unread_share
from pipeline.media.frames import FrameReader
from pipeline.media.opening import open_media
from pipeline.media.rejection import RejectedSource
from pipeline.prepare.audio_track import AudioTrack
from pipeline.prepare.video_track import VideoTrack
from pipeline.shards.codecs import frame_rate
from pipeline.shards.tar_writer import NormalisedMedia
from settings import PrepareConfig

MAX_ERROR_SHARE = 0.25
"""Largest fraction of a track's packets that may fail to decode; beyond it the file is rejected as damaged."""
_FLAGGED_LOSS = 0.1
"""Shortest duration in seconds of lost sound or pictures that is flagged."""


def normalise(path: str | Path, config: PrepareConfig) -> NormalisedMedia:
    """Decodes the file once and encodes its tracks as configured.

    Raises:
        RejectedSource: the file cannot be used; the exception tells its owner why.
        MemoryError: decoding needs more memory than the process may use.
    """
    try:
        with open_media(path, max_pixels=config.max_pixels) as container:
            return _Normaliser(container, config, Path(path)).run()
    except MemoryError:
        raise
    except av.error.FFmpegError as error:
        raise RejectedSource("truncated or damaged", error.strerror or str(error)) from None


class _Normaliser:
    """Makes one sample of an open container."""

    def __init__(self, container: InputContainer, config: PrepareConfig, path: Path) -> None:
        self._container = container
        self._path = path
        self._read_to: int | None = 0
        """Position in the file, in bytes, after the last packet read; None if reading stopped at max_seconds."""
        self._config = config
        self._reader = FrameReader(container, streams=config.streams, max_pixels=config.max_pixels)
        self._video: VideoTrack | None = None
        self._audio: AudioTrack | None = None
        if self._reader.video is not None:
            self._video = VideoTrack(
                storage=config.storage,
                pixel_aspect=self._reader.pixel_aspect(),
                frame_seconds=self._reader.frame_seconds(frame_rate(config.storage.fps)),
                max_seconds=config.max_seconds,
            )
        if self._reader.audio is not None:
            self._audio = AudioTrack(sample_rate=config.sample_rate)

    def run(self) -> NormalisedMedia:
        for packet in self._reader.read():
            self._decode(packet)
            if self._video is not None and self._video.start is not None and self._audio is not None:
                self._audio.stop_at = self._video.start + self._config.max_seconds
            if self._read_to is not None and packet.pos is not None:
                self._read_to = max(self._read_to, packet.pos + packet.size)
            if self._video is not None and self._video.full and self._audio_done():
                self._read_to = None
                break
        return self._finish()

    def _decode(self, packet: av.Packet) -> None:
        for frame in self._reader.decode(packet):
            try:
                if isinstance(frame, av.VideoFrame):
                    assert self._video is not None
                    self._video.add(frame)
                else:
                    assert self._audio is not None
                    assert isinstance(frame, av.AudioFrame)
                    self._audio.add(frame)
            except (av.error.FFmpegError, ValueError) as error:
                if isinstance(error, MemoryError):
                    raise
                self._reader.errors[packet.stream.type] += 1

    def _audio_done(self) -> bool:
        audio = self._audio
        return audio is None or (audio.stop_at is not None and audio.end >= audio.stop_at)

    def _finish(self) -> NormalisedMedia:
        if self._video is not None:
            self._video.flush()
        self._reject_damage()
        if self._video is None:
            return self._finish_audio()
        video, audio = self._video, self._audio
        assert video.start is not None
        seconds = video.end
        if audio is not None:
            if video.frames == 1:
                video.flags["still_picture"] = True
                seconds = max(seconds, audio.end - video.start)
            self._reject_disjoint(video.start, video.start + seconds, audio)
        self._reject_short(seconds)
        blob = video.finish(hold_until=seconds)
        pcm = None
        if audio is not None:
            samples = round(len(blob.frame_bytes) / self._config.storage.fps * self._config.sample_rate)
            pcm = audio.finish(start=video.start, samples=samples)
        return NormalisedMedia(video=blob, pcm=pcm, flags=self._flags(seconds))

    def _finish_audio(self) -> NormalisedMedia:
        audio = self._audio
        assert audio is not None
        assert audio.start is not None
        seconds = audio.end - audio.start
        self._reject_short(seconds)
        if seconds > self._config.max_seconds:
            audio.flags["cut_at_max_seconds"] = True
        samples = round(min(seconds, self._config.max_seconds) * self._config.sample_rate)
        return NormalisedMedia(
            video=None, pcm=audio.finish(start=audio.start, samples=samples), flags=self._flags(seconds)
        )

    def _reject_damage(self) -> None:
        for kind, track in (("video", self._video), ("audio", self._audio)):
            if track is None:
                continue
            packets, errors = self._reader.packets[kind], self._reader.errors[kind]
            if track.start is None:
                raise RejectedSource("truncated or damaged", f"none of the {packets} {kind} packets can be decoded")
            if errors > MAX_ERROR_SHARE * packets:
                raise RejectedSource("truncated or damaged", f"{errors} of {packets} {kind} packets cannot be decoded")
        if self._audio is not None and (problem := self._audio.repair.problem()):
            raise RejectedSource("sound out of range", problem)

    def _reject_short(self, seconds: float) -> None:
        if seconds < self._config.min_seconds:
            raise RejectedSource("too short", f"{seconds:.3g} s, less than min_seconds={self._config.min_seconds:g}")

    @staticmethod
    def _reject_disjoint(start: float, end: float, audio: AudioTrack) -> None:
        assert audio.start is not None
        if audio.end <= start or audio.start >= end:
            detail = f"video from {start:.2f} to {end:.2f} s, audio from {audio.start:.2f} to {audio.end:.2f} s"
            raise RejectedSource("audio and video do not overlap", detail)

    def _flags(self, seconds: float) -> dict[str, Any]:
        flags: dict[str, Any] = {}
        lost = 0.0
        for track in (self._video, self._audio):
            if track is not None:
                flags |= track.flags
                lost = max(lost, track.lost_seconds)
        if errors := sum(self._reader.errors.values()):
            flags["decode_errors"] = errors
        if self._read_to and "ends_early_seconds" not in flags:
            lost += seconds * unread_share(self._path, self._read_to)
        if lost > _FLAGGED_LOSS:
            flags["lost_seconds"] = round(lost, 3)
        if self._reader.clock.restarts:
            flags["clock_restarts"] = self._reader.clock.restarts
        missing = self._missing(seconds)
        if "cut_at_max_seconds" not in flags and missing > max(0.5, 0.1 * seconds):
            flags["ends_early_seconds"] = round(missing, 3)
        return flags

    def _missing(self, seconds: float) -> float:
        """Returns by how many seconds the file is shorter than its header says."""
        stream, container = self._reader.streams[0], self._container
        if self._reader.clock.restarts:
            return 0.0  # the header describes only one of the parts
        if stream.duration is not None:
            return float(stream.duration * stream.time_base) - seconds
        if container.duration is None:
            return 0.0
        # Matroska states a single duration for all tracks together.
        ends = [self._audio.end] if self._audio is not None else []
        if self._video is not None and self._video.start is not None:
            ends.append(self._video.start + seconds)
        return ((container.start_time or 0) + container.duration) / av.time_base - max(ends)
