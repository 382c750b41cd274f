"""Decodes raw videos with decord and PyAV: what the decord loader's processes do, and nothing that needs torch."""

from __future__ import annotations

import av
import av.error
import decord
import numpy as np

SEEK_BACK_SECONDS = 1.0
"""Audio is decoded from this much before the window: codecs need a run-up, and seeking lands near its aim only."""


def decode_frames(path: str, wanted: np.ndarray) -> np.ndarray:
    """uint8 [T, H, W, 3], the frames nearest to the times `wanted` [T], seconds after the first frame.

    Raises:
        ValueError: neither decord nor PyAV can decode it; the message is decord's.
    """
    try:
        # Not kept open: decord's readers hold memory that grows with use.
        reader = decord.VideoReader(path, num_threads=1)
        shown_at = reader.get_frame_timestamp(range(len(reader)))[:, 0]
        return reader.get_batch(_nearest(shown_at, wanted).tolist()).asnumpy()
    except (decord.DECORDError, RuntimeError, IndexError, ValueError) as error:
        # decord's FFmpeg knows no AV1 and trips over some MPEG-2 and very small pictures.
        frames = _frames_with_av(path, wanted)
        if frames is None:
            raise ValueError(str(error)) from None
        return frames


def decode_pcm(path: str, *, origin: float, rate: int, start: int, length: int) -> np.ndarray:
    """int16 [length], mono sound at `rate` Hz from sample `start` after `origin` (s) on; silence where there is none.

    Raises:
        ValueError: PyAV cannot decode it.
    """
    window = np.zeros(length, dtype=np.int16)
    try:
        with av.open(path, metadata_errors="replace") as container:
            stream = container.streams.audio[0]
            if stream.codec_context is None:  # PyAV would crash
                raise ValueError("FFmpeg has no decoder for it")
            seek_to = origin + start / rate - SEEK_BACK_SECONDS
            # In an MPEG program stream a seek lands in the middle of a sound packet, which does not decode.
            if seek_to > origin and container.format.name != "mpeg" and stream.time_base is not None:
                container.seek(int(seek_to / stream.time_base), stream=stream)
            resampler = av.AudioResampler(format="s16", layout="mono", rate=rate)
            place = None
            for frame in container.decode(stream):
                if place is None:
                    if frame.time is None:
                        raise ValueError("its first frame has no time")
                    place = round((frame.time - origin) * rate) - start
                for resampled in resampler.resample(frame):
                    place = _paste(window, resampled.to_ndarray()[0], place)
                if place >= length:
                    break
    except (av.error.FFmpegError, IndexError, TypeError, OverflowError) as error:
        raise ValueError(str(error)) from None
    return window


def _nearest(shown_at: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """int64 [T], index of the frame nearest to each time (seconds after the first frame), the earlier one of two."""
    shown_at = shown_at - shown_at[0]
    after = np.searchsorted(shown_at, wanted).clip(1, max(len(shown_at) - 1, 1))
    nearer_before = wanted - shown_at[after - 1] <= shown_at[after.clip(max=len(shown_at) - 1)] - wanted
    return np.where(nearer_before, after - 1, after).clip(max=len(shown_at) - 1)


def _frames_with_av(path: str, wanted: np.ndarray) -> np.ndarray | None:
    """As `decode_frames`; None for what PyAV cannot decode either, and for turned pictures."""
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
    """Writes `samples` at `place` as far as they lie within the window; returns the place after them."""
    first, last = max(place, 0), min(place + len(samples), len(window))
    if first < last:
        window[first:last] = samples[first - place : last - place]
    return place + len(samples)
