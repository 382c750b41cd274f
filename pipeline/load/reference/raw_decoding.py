"""Decodes raw videos with decord and PyAV. Runs in the decord loader's processes, so it does not import torch."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from pathlib import Path

import av
import av.error
import decord
import numpy as np

from pipeline.media.clock import JoinedClock, may_jump
from pipeline.media.opening import check_decoder, is_cover_art, open_media
from pipeline.media.orientation import AS_STORED, OrientationReader
from pipeline.media.rejection import RejectedSource
from pipeline.media.sound import SoundRepair
from settings import PrepareConfig

LIMITS = PrepareConfig()
"""Limits on the time, memory and pixels of a file, with the defaults of pipeline.prepare."""
SEEK_BACK_SECONDS = 1.0
"""Audio is decoded from this long before the window: codecs need pre-roll, and seeks are only approximate."""


@dataclass(frozen=True)
class Header:
    """Properties of a video file, read from its header and first frame."""

    origin: float
    """Presentation time of the first video frame in seconds; times of clips are relative to it."""
    seconds: float
    """Duration of the video in seconds."""
    width: int
    """Width in pixels as displayed, after rotation."""
    height: int
    """Height in pixels as displayed, after rotation."""
    has_audio: bool
    is_upright: bool
    """Whether frames are displayed as stored; if not, PyAV decodes them, because decord does not apply mirroring."""


def read_header(path: str | Path) -> Header:
    """Reads the header of a video and decodes its first frame.

    Raises:
        ValueError: the file is not a usable video; the message is the reason.
    """
    try:
        with open_media(path, max_pixels=LIMITS.max_pixels) as container:
            video = _video_stream(container)
            frame = next(container.decode(video), None)
            if frame is None:
                raise ValueError("no frame can be decoded")
            if frame.width * frame.height > LIMITS.max_pixels:
                raise ValueError(f"too many pixels: {frame.width} x {frame.height}")
            if may_jump(container):
                _check_clock(container)
            orientation = OrientationReader()(frame)
            width, height = orientation.size(frame.width, frame.height)
            return Header(
                origin=frame.time or 0.0,
                seconds=_seconds(container, video),
                width=width,
                height=height,
                has_audio=bool(container.streams.audio),
                is_upright=orientation == AS_STORED,
            )
    except MemoryError:
        raise
    except (av.error.FFmpegError, OSError, RejectedSource) as error:
        raise ValueError(str(error)) from None


def decode_frames(path: str, *, wanted: np.ndarray, is_upright: bool) -> np.ndarray:
    """Returns the frames nearest to the times `wanted` [T], in seconds after the first frame; uint8 [T, H, W, 3].

    Raises:
        ValueError: neither decord nor PyAV can decode the file; the message is decord's.
    """
    if not is_upright:
        return _frames_with_av(path, wanted)
    try:
        # The reader is not kept: the memory of a decord reader grows with use.
        reader = decord.VideoReader(path, num_threads=1)
        timestamps = reader.get_frame_timestamp(range(len(reader)))[:, 0]
        return reader.get_batch(_nearest(timestamps, wanted).tolist()).asnumpy()
    except (decord.DECORDError, RuntimeError, IndexError, ValueError) as error:
        # decord's FFmpeg lacks AV1, and fails on some MPEG-2 files and on very small frames.
        try:
            return _frames_with_av(path, wanted)
        except ValueError:
            raise ValueError(str(error)) from None


def decode_pcm(path: str, *, origin: float, rate: int, start: int, length: int) -> np.ndarray:
    """Returns mono audio at `rate` Hz from sample `start`, counted from time `origin` in seconds; int16 [length].

    The result is silent where the file has no audio.

    Raises:
        ValueError: PyAV cannot decode the audio, or too many samples are not finite or out of range.
    """
    window, repair = np.zeros(length, dtype=np.int16), SoundRepair()
    try:
        with open_media(path, max_pixels=LIMITS.max_pixels) as container:
            stream = container.streams.audio[0]
            check_decoder(stream)
            seek_to = origin + start / rate - SEEK_BACK_SECONDS
            # In an MPEG program stream, a seek lands in the middle of an audio packet, which cannot be decoded.
            if seek_to > origin and container.format.name != "mpeg" and stream.time_base is not None:
                container.seek(int(seek_to / stream.time_base), stream=stream)
            resampler = av.AudioResampler(format="s16", layout="mono", rate=rate)
            place = None
            for frame in container.decode(stream):
                if place is None:
                    if frame.time is None:
                        raise ValueError("its first frame has no timestamp")
                    place = round((frame.time - origin) * rate) - start
                for resampled in resampler.resample(repair(frame)):
                    place = _paste(window, resampled.to_ndarray()[0], place)
                if place >= length:
                    break
    except MemoryError:
        raise
    except (av.error.FFmpegError, IndexError, TypeError, OverflowError, RejectedSource) as error:
        raise ValueError(str(error)) from None
    if problem := repair.problem():
        raise ValueError(problem)
    return window


def _video_stream(container: av.container.InputContainer) -> av.VideoStream:
    videos = [stream for stream in container.streams.video if not is_cover_art(stream)]
    if not videos:
        raise ValueError("no video track")
    check_decoder(videos[0])
    return videos[0]


def _check_clock(container: av.container.InputContainer) -> None:
    """Raises ValueError if the timestamps start again, as in joined files: decord would mix the frames of the parts."""
    clock = JoinedClock(jumps=True)
    deque(clock.steady(container.demux()), maxlen=0)
    if clock.restarts:
        raise ValueError("its time stamps start again, as in joined files; pipeline.prepare can use it")


def _seconds(container: av.container.InputContainer, video: av.VideoStream) -> float:
    """The duration of the video track or, if its header has none, of the file."""
    if video.duration is not None and video.time_base is not None:
        return float(video.duration * video.time_base)
    if container.duration is not None:
        return container.duration / av.time_base
    raise ValueError("the header has no duration")


def _nearest(timestamps: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Returns the index of the frame nearest to each time in seconds after the first (the earlier if tied), [T]."""
    timestamps = timestamps - timestamps[0]
    after = np.searchsorted(timestamps, wanted).clip(1, max(len(timestamps) - 1, 1))
    nearer_before = wanted - timestamps[after - 1] <= timestamps[after.clip(max=len(timestamps) - 1)] - wanted
    return np.where(nearer_before, after - 1, after).clip(max=len(timestamps) - 1)


def _frames_with_av(path: str, wanted: np.ndarray) -> np.ndarray:
    """Like `decode_frames`, but with PyAV, and rotated and mirrored as displayed."""
    frames, upright, orientations = [], [], OrientationReader()
    try:
        with open_media(path, max_pixels=LIMITS.max_pixels) as container:
            for frame in container.decode(_video_stream(container)):
                frames.append(frame)
                upright.append(orientations(frame))
                if frame.time - frames[0].time > wanted[-1] + 1:
                    break
        chosen = _nearest(np.array([frame.time for frame in frames]), wanted)
        return np.stack([upright[k].apply(frames[k].to_ndarray(format="rgb24")) for k in chosen])
    except MemoryError:
        raise
    except (av.error.FFmpegError, OSError, IndexError, TypeError, RejectedSource) as error:
        raise ValueError(str(error)) from None


def _paste(window: np.ndarray, samples: np.ndarray, place: int) -> int:
    """Writes the part of `samples` that falls within the window at index `place`; returns the index after them."""
    first, last = max(place, 0), min(place + len(samples), len(window))
    if first < last:
        window[first:last] = samples[first - place : last - place]
    return place + len(samples)
