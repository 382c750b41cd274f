"""Decodes raw videos with decord and PyAV. Runs in the decord loader's processes, so it does not import torch."""

from __future__ import annotations

import av
import av.error
import decord
import numpy as np

SEEK_BACK_SECONDS = 1.0
"""Audio is decoded from this long before the window: codecs need pre-roll, and seeks are only approximate."""


def decode_frames(path: str, wanted: np.ndarray) -> np.ndarray:
    """uint8 [T, H, W, 3], the frames nearest to the times `wanted` [T], in seconds after the first frame.

    Raises:
        ValueError: neither decord nor PyAV can decode the file; the message is decord's.
    """
    try:
        # The reader is not kept: the memory of a decord reader grows with use.
        reader = decord.VideoReader(path, num_threads=1)
        timestamps = reader.get_frame_timestamp(range(len(reader)))[:, 0]
        return reader.get_batch(_nearest(timestamps, wanted).tolist()).asnumpy()
    except (decord.DECORDError, RuntimeError, IndexError, ValueError) as error:
        # decord's FFmpeg lacks AV1, and fails on some MPEG-2 files and on very small frames.
        frames = _frames_with_av(path, wanted)
        if frames is None:
            raise ValueError(str(error)) from None
        return frames


def decode_pcm(path: str, *, origin: float, rate: int, start: int, length: int) -> np.ndarray:
    """int16 [length], mono audio at `rate` Hz from sample `start`, counted from time `origin` in seconds.

    The result is silent where the file has no audio.

    Raises:
        ValueError: PyAV cannot decode the audio.
    """
    window = np.zeros(length, dtype=np.int16)
    try:
        with av.open(path, metadata_errors="replace") as container:
            stream = container.streams.audio[0]
            if stream.codec_context is None:  # PyAV would crash
                raise ValueError("FFmpeg has no decoder for it")
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
                for resampled in resampler.resample(frame):
                    place = _paste(window, resampled.to_ndarray()[0], place)
                if place >= length:
                    break
    except (av.error.FFmpegError, IndexError, TypeError, OverflowError) as error:
        raise ValueError(str(error)) from None
    return window


def _nearest(timestamps: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """int64 [T], index of the frame nearest to each time (seconds after the first frame), in a tie the earlier."""
    timestamps = timestamps - timestamps[0]
    after = np.searchsorted(timestamps, wanted).clip(1, max(len(timestamps) - 1, 1))
    nearer_before = wanted - timestamps[after - 1] <= timestamps[after.clip(max=len(timestamps) - 1)] - wanted
    return np.where(nearer_before, after - 1, after).clip(max=len(timestamps) - 1)


def _frames_with_av(path: str, wanted: np.ndarray) -> np.ndarray | None:
    """Like `decode_frames`, but with PyAV; returns None if PyAV cannot decode the file or its frames are rotated."""
    frames = []
    try:
        with av.open(path, metadata_errors="replace") as container:
            for frame in container.decode(video=0):
                if frame.rotation:
                    return None
                frames.append(frame)
                if frame.time - frames[0].time > wanted[-1] + 1:
                    break
        chosen = _nearest(np.array([frame.time for frame in frames]), wanted)
        return np.stack([frames[k].to_ndarray(format="rgb24") for k in chosen])
    except (av.error.FFmpegError, OSError, IndexError, TypeError, ValueError):
        return None


def _paste(window: np.ndarray, samples: np.ndarray, place: int) -> int:
    """Writes the part of `samples` that falls within the window at index `place`; returns the index after them."""
    first, last = max(place, 0), min(place + len(samples), len(window))
    if first < last:
        window[first:last] = samples[first - place : last - place]
    return place + len(samples)
