"""Cuts samples from a file in one pass: every frame is decoded once, and given to all parts that it belongs to.

Note [One pass]

The parts are sorted by their start. While packets are read, a part is opened shortly before its start, receives video
and audio frames, and is finished as soon as both have passed its end, so that only parts that overlap are held in
memory. What a part receives does not depend on where reading began: after a seek it gets the same frames.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import av
import av.error
from av.audio.frame import AudioFrame
from av.container import InputContainer
from av.video.frame import VideoFrame

from pipeline.lists.spans import DECIMALS, Span
from pipeline.media.frames import FrameReader
from pipeline.media.opening import is_cover_art, open_media
from pipeline.media.rejection import RejectedSource
from pipeline.prepare.audio_track import AudioTrack
from pipeline.prepare.segments.part import FileEnd, Part, Task
from pipeline.prepare.segments.seek import Seeker
from pipeline.prepare.video_track import SharedScaler, VideoTrack
from pipeline.shards.codecs import frame_rate
from pipeline.shards.tar_writer import NormalisedMedia
from settings import PrepareConfig

Outcome = tuple[Task, "NormalisedMedia | RejectedSource"]

_OPENED_BEFORE = 0.5
"""Seconds before its start at which a part is opened."""
_MOST_ENCODERS = 64
"""Largest number of encoders that are open at the same time; if more segments overlap, the file is read again."""
_KEPT_VIDEO_FRAMES = 6
"""Number of already decoded video frames that a part receives when it is opened."""
_KEPT_AUDIO_SECONDS = 3.0
"""Seconds of already decoded audio that a part receives when it is opened."""
_ENCODER_DELAY = 0.15
"""Largest delay in seconds of the video behind the file's start that is taken for a side effect of encoding; times are
then counted from the first video frame, and otherwise from the file's start."""


def cut(
    path: str | Path,
    items: Sequence[Span | None],
    config: PrepareConfig,
    *,
    may_seek: bool = True,
    progress: Callable[[], None] = lambda: None,
) -> Iterator[Outcome]:
    """Decodes a file and yields its samples in the order in which they are complete.

    Args:
        items: the segments, and None for the whole file; each gives a sample or, with windows, several.
        may_seek: whether to skip stretches of the file that no segment needs, instead of decoding them.
        progress: called at least once per max_seconds of decoded material.

    Raises:
        RejectedSource: the file cannot be used at all.
        MemoryError: decoding needs more memory than the process may use.
    """
    try:
        with open_media(path, max_pixels=config.max_pixels) as container:
            yield from _Cutter(container, items, config, may_seek=may_seek, progress=progress).run()
    except MemoryError:
        raise
    except av.error.FFmpegError as error:
        raise RejectedSource("truncated or damaged", error.strerror or str(error)) from None


class _Cutter:
    """Reads one open container."""

    def __init__(
        self,
        container: InputContainer,
        items: Sequence[Span | None],
        config: PrepareConfig,
        *,
        may_seek: bool,
        progress: Callable[[], None],
    ) -> None:
        self._config = config
        self._reader = FrameReader(container, streams=config.streams, max_pixels=config.max_pixels)
        self._seeker = Seeker(container, self._reader)
        self._seeker.is_enabled &= may_seek
        self._origin, self._begin = _origin(container, self._reader)
        self._frame_seconds = 0.0
        if self._reader.video is not None:
            self._frame_seconds = self._reader.frame_seconds(frame_rate(config.storage.fps))
        self._progress = progress
        self._scaler = SharedScaler(config.storage)
        # The windows of a whole file are made while it is read, because its length is not known before.
        self._windows_whole_file = bool(config.windows) and None in items
        self._next_window = 0
        tasks = [task for item in items for task in self._tasks(item)]
        self._waiting = deque(sorted(tasks, key=lambda task: task.span))
        self._deferred: list[Task] = []
        self._open: list[Part] = []
        self._recent_video: deque[tuple[VideoFrame, float]] = deque(maxlen=_KEPT_VIDEO_FRAMES)
        self._recent_audio: deque[tuple[AudioFrame, float, float]] = deque()
        self._video_time = self._audio_end = -math.inf
        self._last_frame: tuple[VideoFrame, float] | None = None
        self._frames = {"video": 0, "audio": 0}
        self._beat_at = -math.inf
        # AVI numbers frames in decoding order, so the decoder's delay looks like a delay of the video.
        self._is_numbered = container.format.name == "avi"
        self._delay: int | None = None

    def run(self) -> Iterator[Outcome]:
        self._seeker.prepare([task.span.start for task in self._waiting] if not self._windows_whole_file else [])
        while True:
            yield from self._read_once()
            if not self._deferred:
                return
            # The file can end while parts wait that begin after its end; the deferred ones begin before those.
            self._waiting, self._deferred = deque([*self._deferred, *self._waiting]), []
            self._seeker.rewind()
            self._forget_frames()

    def _tasks(self, item: Span | None) -> list[Task]:
        """The samples of an item that are known before the file is read."""
        every, longest = self._config.windows, self._config.max_seconds
        if item is None:
            return [] if every else [Task(None, Span(self._begin, self._begin + longest), False)]
        if not every:
            return [Task(item, Span(item.start, min(item.end, item.start + longest)), False)]
        count = max(1, math.ceil((item.end - item.start) / every - 1e-6))
        starts = [round(item.start + number * every, DECIMALS) for number in range(count)]
        return [Task(item, Span(*span), True) for span in zip(starts, [*starts[1:], item.end], strict=True)]

    def _read_once(self) -> Iterator[Outcome]:
        """Reads the file once, as far as any part needs it."""
        self._skip()
        packets = self._reader.read()
        while (packet := next(packets, None)) is not None:
            for frame in self._reader.decode(packet):
                if isinstance(frame, av.VideoFrame):
                    self._take_video(frame)
                else:
                    self._take_audio(frame)
            complete = [part for part in self._open if part.is_complete(self._audio_end)]
            if complete:
                yield from self._finish(complete, FileEnd(None, None, False))
                if not (self._open or self._waiting or self._windows_whole_file):
                    return
                if not self._open and self._skip():
                    packets = self._reader.read()
        yield from self._finish_all()

    def _skip(self) -> bool:
        """Seeks towards the next part, if that is possible and saves time; returns whether it did."""
        if self._windows_whole_file or not self._waiting:
            return False
        start = self._origin + self._waiting[0].span.start
        now = max(self._video_time, self._origin)
        skipped = self._seeker.skip_to(start, now=now)
        if skipped:
            self._forget_frames()
        return skipped

    def _forget_frames(self) -> None:
        self._recent_video.clear()
        self._recent_audio.clear()
        self._video_time = self._audio_end = -math.inf

    def _take_video(self, frame: VideoFrame) -> None:
        seconds = self._frame_seconds
        time = frame.time
        if time is None:
            time = max(self._video_time, self._origin - seconds) + seconds
            frame.pts, frame.time_base = round(time * av.time_base), Fraction(1, av.time_base)
        elif self._is_numbered and frame.pts is not None and frame.time_base is not None:
            if self._delay is None:
                self._delay = max(0, frame.pts - round(self._origin / frame.time_base))
            frame.pts -= self._delay
            time = frame.time
        self._video_time = time
        if self._last_frame is None or time >= self._last_frame[1]:
            self._last_frame = frame, time
        self._frames["video"] += 1
        self._open_parts(time)
        for part in self._open:
            self._add("video", partial(part.add_video, frame, time))
        self._recent_video.append((frame, time))

    def _take_audio(self, frame: AudioFrame) -> None:
        time = frame.time
        if time is None:
            time = max(self._audio_end, self._origin)
            frame.pts, frame.time_base = round(time * av.time_base), Fraction(1, av.time_base)
        end = time + frame.samples / frame.sample_rate
        self._audio_end = max(self._audio_end, end)
        self._frames["audio"] += 1
        self._open_parts(time)
        for part in self._open:
            self._add("audio", partial(part.add_audio, frame, time, end))
        self._recent_audio.append((frame, time, end))
        while self._recent_audio[0][2] < end - _KEPT_AUDIO_SECONDS:
            self._recent_audio.popleft()

    def _add(self, kind: str, add: Callable[[], None]) -> None:
        try:
            add()
        except (av.error.FFmpegError, ValueError) as error:
            if isinstance(error, MemoryError):
                raise
            self._reader.errors[kind] += 1

    def _video_end(self) -> float:
        """When the last frame ends."""
        if self._last_frame is None:
            return -math.inf
        frame, time = self._last_frame
        if frame.duration and frame.time_base:
            return time + float(frame.duration * frame.time_base)
        return time + self._frame_seconds

    def _open_parts(self, time: float) -> None:
        """Opens the parts that a frame at presentation time `time`, or shortly after it, belongs to."""
        now = time - self._origin
        if now > self._beat_at + self._config.max_seconds:
            self._beat_at = now
            self._progress()
        if self._windows_whole_file:
            number = math.floor((now - self._begin) / self._config.windows + 1e-6)
            # A window without a frame, as in a gap of the time stamps, is no sample.
            if number >= self._next_window:
                self._open_part(self._window(number))
                self._next_window = number + 1
        while self._waiting and self._waiting[0].span.start <= now + _OPENED_BEFORE:
            if sum(part.is_encoding for part in self._open) >= _MOST_ENCODERS:
                self._deferred.append(self._waiting.popleft())
            else:
                self._open_part(self._waiting.popleft())

    def _window(self, number: int) -> Task:
        every = self._config.windows
        times = (round(self._begin + index * every, DECIMALS) for index in (number, number + 1))
        return Task(None, Span(*times), True)

    def _open_part(self, task: Task) -> None:
        config, start = self._config, self._origin + task.span.start
        video = audio = None
        if self._reader.video is not None:
            video = VideoTrack(
                storage=config.storage,
                pixel_aspect=self._reader.pixel_aspect(),
                frame_seconds=self._frame_seconds,
                max_seconds=task.span.end - task.span.start,
                part_start=start,
                scaler=self._scaler,
            )
        if self._reader.audio is not None:
            audio = AudioTrack(sample_rate=config.sample_rate)
        part = Part(
            task=task,
            start=start,
            end=self._origin + task.span.end,
            video=video,
            audio=audio,
            packets=dict(self._reader.packets),
            errors=dict(self._reader.errors),
        )
        self._open.append(part)
        for video_frame in self._recent_video:
            self._add("video", partial(part.add_video, *video_frame))
        for audio_frame in self._recent_audio:
            self._add("audio", partial(part.add_audio, *audio_frame))

    def _finish(self, parts: Sequence[Part], ended: FileEnd) -> Iterator[Outcome]:
        for part in parts:
            self._open.remove(part)
            try:
                yield part.task, part.finish(self._reader, self._config, ended)
            except RejectedSource as problem:
                yield part.task, problem
            self._progress()

    def _finish_all(self) -> Iterator[Outcome]:
        """Finishes all parts at the end of the file."""
        for kind, stream in (("video", self._reader.video), ("audio", self._reader.audio)):
            if stream is not None and not self._frames[kind]:
                packets = self._reader.packets[kind]
                raise RejectedSource("truncated or damaged", f"none of the {packets} {kind} packets can be decoded")
        # After a seek, a single frame does not mean that the file has no others.
        is_still = self._frames["video"] == 1 and not self._seeker.has_skipped
        ended = FileEnd(self._video_end(), self._audio_end, is_still)
        while self._waiting and not self._deferred:
            self._open_part(self._waiting.popleft())
        yield from self._finish(list(self._open), ended)


def _origin(container: InputContainer, reader: FrameReader) -> tuple[float, float]:
    """Finds the zero of the times in a file.

    Returns:
        The presentation time that is second 0 of segments, and the second, counted from there, at which samples of the
        whole file begin: 0 unless the video begins later than encoders explain.
    """
    videos = [stream for stream in container.streams.video if not is_cover_art(stream)]
    audio: Any = container.streams.best("audio")
    stream: Any = reader.video or (videos[0] if videos else audio)
    first = container.start_time
    start = 0.0 if first is None else first / av.time_base
    if stream is None or stream.start_time is None:
        return start, 0.0
    begin = float(stream.start_time * stream.time_base)
    if begin - start > _ENCODER_DELAY:
        return start, begin - start
    codec = getattr(audio and audio.codec_context, "name", "")
    if container.format.name.startswith("matroska") and codec in ("opus", "libopus") and audio.start_time is not None:
        # FFmpeg's Matroska writer delays the video by the pre-roll of Opus; its reader subtracts it from audio times.
        begin = min(begin, float(audio.start_time * audio.time_base))
    return begin, 0.0
