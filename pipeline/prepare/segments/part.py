"""One sample that is being cut from a file: it collects the frames of its tracks and is finished when complete."""

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
"""Seconds of audio before a part that its resampler receives too, so that the resampler's transient is over."""
_FLAGGED_LOSS = 0.1
"""A sample sets a flag if it lacks more than so many seconds: at the end of its segment, or within a track."""


class Task(NamedTuple):
    """A sample to cut.

    Attributes:
        item: what was asked for: a segment, or None for the whole file. Windows share an item.
        span: the part of the file to cut; for a whole file without windows, it ends max_seconds after the beginning.
        is_window: whether the part is a window of its item; the last window may be shorter.
    """

    item: Span | None
    span: Span
    is_window: bool


class FileEnd(NamedTuple):
    """Where a file ends.

    Attributes:
        video, audio: presentation times in seconds at which the tracks end; None while the end has not been read.
        is_still: whether the video consists of a single frame, which is then shown for as long as the audio lasts.
    """

    video: float | None
    audio: float | None
    is_still: bool


@dataclass(kw_only=True)
class Part:
    """The tracks of a sample.

    Attributes:
        start, end: presentation times in seconds at which the sample begins and ends.
        video, audio: its tracks; None for a track that is not stored.
        packets, errors: the counts of the reader when the part was opened, by kind of track.
    """

    task: Task
    start: float
    end: float
    video: VideoTrack | None
    audio: AudioTrack | None
    packets: dict[str, int]
    errors: dict[str, int]
    _blob: VideoBlob | None = None
    _first_frame: float = field(default=float("inf"))

    def __post_init__(self) -> None:
        if self.audio is not None:
            self.audio.stop_at = self.end

    @property
    def is_encoding(self) -> bool:
        """Whether an encoder is open."""
        return self.video is not None and self._blob is None and self.video.frames > 0

    def add_video(self, frame: VideoFrame, time: float) -> None:
        """Appends a frame at presentation time `time` in seconds; the last one before the part is needed too.

        Raises:
            av.error.FFmpegError, ValueError: it cannot be converted.
        """
        if self.video is None or self._blob is not None:
            return
        self._first_frame = min(self._first_frame, time)
        self.video.add(frame)
        if self.video.full:
            self._blob = self.video.finish()  # now, because an open encoder takes memory

    def add_audio(self, frame: AudioFrame, time: float, end: float) -> None:
        """Appends an audio frame from `time` to `end` in seconds, if it overlaps this part or the pre-roll.

        Raises:
            av.error.FFmpegError, ValueError: it cannot be resampled.
        """
        if self.audio is not None and end > self.start - _PRE_ROLL and time < self.end:
            self.audio.add(frame)

    def is_complete(self, audio_end: float) -> bool:
        """Whether the part has all its frames, given the presentation time up to which the audio has been read."""
        has_video = self.video is None or self._blob is not None
        return has_video and (self.audio is None or audio_end >= self.end)

    def finish(self, reader: FrameReader, config: PrepareConfig, ended: FileEnd) -> NormalisedMedia:
        """Returns the sample.

        Raises:
            RejectedSource: the part cannot become a sample.
        """
        self._reject_damage(reader)
        if self.video is None:
            available = self._available(ended.audio)
            self._reject_short(available, ended.audio, config)
            return NormalisedMedia(
                video=None,
                pcm=self._pcm(round(available * config.sample_rate)),
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
        if self._first_frame >= self.end:
            raise RejectedSource("no video in the segment", f"its first frame is at {self._first_frame:.2f} s")
        blob = self._blob or self.video.finish(hold_until=available)
        pcm = None
        if self.audio is not None:
            pcm = self._pcm(round(len(blob.frame_bytes) / config.storage.fps * config.sample_rate))
        return NormalisedMedia(video=blob, pcm=pcm, flags=self._flags(available, reader, config))

    def _available(self, file_end: float | None) -> float:
        """Seconds of the part that lie before the end of the file."""
        return (self.end if file_end is None else min(self.end, file_end)) - self.start

    def _reject_short(self, available: float, file_end: float | None, config: PrepareConfig) -> None:
        origin = self.start - self.task.span.start
        if available <= 0 and file_end is not None:
            raise RejectedSource("beyond the end of the file", f"the file ends at {file_end - origin:.2f} s")
        if available < config.min_seconds - 1e-6:
            raise RejectedSource("too short", f"{available:.3g} s, less than min_seconds={config.min_seconds:g}")

    def _pcm(self, samples: int) -> Any:
        assert self.audio is not None
        if self.audio.start is None or self.audio.end <= self.start or self.audio.start >= self.end:
            if self.video is None:
                raise RejectedSource("no audio in the segment")
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
                if track.lost_seconds > _FLAGGED_LOSS:
                    flags["lost_seconds"] = round(max(track.lost_seconds, flags.get("lost_seconds", 0.0)), 3)
        if errors := sum(reader.errors.values()) - sum(self.errors.values()):
            flags["decode_errors"] = errors
        if reader.clock.restarts:
            flags["clock_restarts"] = reader.clock.restarts
        span = self.task.span
        if available >= config.max_seconds - 1e-6 and (self.task.item is None or span != self.task.item):
            if not self.task.is_window:
                flags["cut_at_max_seconds"] = True
        elif self.task.item is not None and (missing := span.end - span.start - available) > _FLAGGED_LOSS:
            flags["segment_cut_seconds"] = round(missing, 3)
        return flags
