"""One sample that is being cut from a file: its tracks, and what was found when it is complete."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

from av.audio.frame import AudioFrame
from av.video.frame import VideoFrame

from pipeline.lists.spans import Span
from pipeline.media.frames import FrameReader
from pipeline.media.rejection import RejectedSource
from pipeline.prepare.audio_track import AudioTrack
from pipeline.prepare.media import MAX_ERROR_SHARE
from pipeline.prepare.video_track import VideoTrack
from pipeline.shards.codecs import VideoBlob
from pipeline.shards.tar_writer import NormalisedMedia
from settings import PrepareConfig

_PRE_ROLL = 0.1
"""Seconds of sound before a part that its resampler receives, so that the part does not begin with its transient."""
_FLAGGED_CUT = 0.1
"""Shortest time in seconds by which a part ends before its segment does that is flagged."""


class Task(NamedTuple):
    """A sample to cut.

    Attributes:
        item: what was asked for: a segment, or None for the whole file. Windows share an item.
        span: the part of the file to cut; for a whole file that is not cut, its beginning and the longest end.
        is_window: whether the part is a window of its item, so that it may be shorter at the item's end.
    """

    item: Span | None
    span: Span
    is_window: bool


class Ended(NamedTuple):
    """Where the file ends: the times of the ends of its tracks, in seconds; None while it has not ended."""

    video: float | None
    audio: float | None
    is_still: bool


@dataclass(kw_only=True)
class Part:
    """The tracks of a sample.

    Attributes:
        start, end: presentation times in seconds between which the sample lies.
        video, audio: its tracks; None for a track that is not stored.
        packets, errors: the counts of the reader when the part began, by kind of track.
    """

    task: Task
    start: float
    end: float
    video: VideoTrack | None
    audio: AudioTrack | None
    packets: dict[str, int]
    errors: dict[str, int]
    _blob: VideoBlob | None = None
    _first_picture: float = field(default=float("inf"))

    def __post_init__(self) -> None:
        if self.audio is not None:
            self.audio.stop_at = self.end

    @property
    def is_encoding(self) -> bool:
        """Whether an encoder is open."""
        return self.video is not None and self._blob is None and self.video.frames > 0

    def add_picture(self, frame: VideoFrame, time: float) -> None:
        """Appends a frame; the last one before the part is needed too.

        Raises:
            av.error.FFmpegError, ValueError: it cannot be converted.
        """
        if self.video is None or self._blob is not None:
            return
        self._first_picture = min(self._first_picture, time)
        self.video.add(frame)
        if self.video.full:
            self._blob = self.video.finish()  # now, because an open encoder takes memory

    def add_sound(self, frame: AudioFrame, time: float, end: float) -> None:
        """Appends a frame of sound from `time` to `end` in seconds, if it is of this part.

        Raises:
            av.error.FFmpegError, ValueError: it cannot be resampled.
        """
        if self.audio is not None and end > self.start - _PRE_ROLL and time < self.end:
            self.audio.add(frame)

    def is_complete(self, sound_read_to: float) -> bool:
        """Whether nothing more can come, if the sound has been read up to a time in seconds."""
        has_pictures = self.video is None or self._blob is not None
        return has_pictures and (self.audio is None or sound_read_to >= self.end)

    def finish(self, reader: FrameReader, config: PrepareConfig, ended: Ended) -> NormalisedMedia:
        """Returns the sample.

        Raises:
            RejectedSource: there is no sample here.
        """
        self._reject_damage(reader)
        if self.video is None:
            available = self._available(ended.audio)
            self._reject_short(available, ended.audio, config)
            return NormalisedMedia(
                video=None,
                pcm=self._sound(round(available * config.sample_rate)),
                flags=self._flags(available, reader, config),
            )
        if self._blob is None:
            self.video.flush()
        file_end = ended.video
        if ended.is_still and ended.video is not None and ended.audio is not None:
            self.video.flags["still_picture"] = True
            file_end = max(ended.video, ended.audio)
        available = self._available(file_end)
        self._reject_short(available, file_end, config)
        if self._first_picture >= self.end:
            raise RejectedSource("no video in the segment", f"its first frame is at {self._first_picture:.2f} s")
        blob = self._blob or self.video.finish(hold_until=available)
        pcm = None
        if self.audio is not None:
            pcm = self._sound(round(len(blob.frame_bytes) / config.storage.fps * config.sample_rate))
        return NormalisedMedia(video=blob, pcm=pcm, flags=self._flags(available, reader, config))

    def _available(self, file_end: float | None) -> float:
        """Seconds of the part that the file has."""
        return (self.end if file_end is None else min(self.end, file_end)) - self.start

    def _reject_short(self, available: float, file_end: float | None, config: PrepareConfig) -> None:
        origin = self.start - self.task.span.start
        if available <= 0 and file_end is not None:
            raise RejectedSource("beyond the end of the file", f"the file ends at {file_end - origin:.2f} s")
        if available < config.min_seconds - 1e-6:
            raise RejectedSource("too short", f"{available:.3g} s, less than min_seconds={config.min_seconds:g}")

    def _sound(self, samples: int) -> Any:
        assert self.audio is not None
        if self.audio.start is None or self.audio.end <= self.start or self.audio.start >= self.end:
            raise RejectedSource("audio and video do not overlap", "the segment has no audio")
        if problem := self.audio.repair.problem():
            raise RejectedSource("sound out of range", problem)
        return self.audio.finish(start=self.start, samples=samples)

    def _reject_damage(self, reader: FrameReader) -> None:
        for kind in ("video", "audio"):
            packets, errors = reader.packets[kind] - self.packets[kind], reader.errors[kind] - self.errors[kind]
            if errors > MAX_ERROR_SHARE * packets:
                raise RejectedSource("truncated or damaged", f"{errors} of {packets} {kind} packets cannot be decoded")

    def _flags(self, available: float, reader: FrameReader, config: PrepareConfig) -> dict[str, Any]:
        flags: dict[str, Any] = {}
        for track in (self.video, self.audio):
            if track is not None:
                flags |= track.flags
                if track.lost_seconds > _FLAGGED_CUT:
                    flags["lost_seconds"] = round(max(track.lost_seconds, flags.get("lost_seconds", 0.0)), 3)
        if errors := sum(reader.errors.values()) - sum(self.errors.values()):
            flags["decode_errors"] = errors
        if reader.clock.restarts:
            flags["clock_restarts"] = reader.clock.restarts
        span = self.task.span
        if available >= config.max_seconds - 1e-6 and (self.task.item is None or span != self.task.item):
            if not self.task.is_window:
                flags["cut_at_max_seconds"] = True
        elif self.task.item is not None and (missing := span.end - span.start - available) > _FLAGGED_CUT:
            flags["segment_cut_seconds"] = round(missing, 3)
        return flags
