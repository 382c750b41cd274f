"""Places the decoded audio of a sample on its time line, according to the time stamps, as mono 16-bit PCM."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import av
import av.error
import numpy as np
from av.audio.frame import AudioFrame
from numpy.typing import NDArray

from pipeline.media.sound import SoundRepair

_STAMP_TOLERANCE = 0.02
"""Largest ignored difference, in seconds, between a time stamp and the end of the audio so far; half a frame at 25 fps.

Smaller differences are rounding (1 ms in Matroska and FLV) or jitter. A larger one is a gap, an overlap or drift, and
the audio is placed where its time stamp says.
"""
_FLAGGED_SILENCE = 0.1
"""Shortest added silence or overlap, in seconds, that counts: audio often ends a few hundredths before the video."""


@dataclass
class _Segment:
    """A piece of audio without gaps, which one resampler converts.

    Attributes:
        start: presentation time of the first sample, in seconds.
        rate: sample rate of the source in Hz.
        resampler: converts the source to mono 16-bit PCM at the stored sample rate.
        samples_in: number of samples per channel received from the source.
        chunks: the resampled audio, int16 [n] each.
    """

    start: float
    rate: int
    resampler: av.AudioResampler
    samples_in: int = 0
    chunks: list[NDArray[np.int16]] = field(default_factory=list)

    @property
    def end(self) -> float:
        return self.start + self.samples_in / self.rate


class AudioTrack:
    """Collects the audio of one stream; set `stop_at` to bound the memory that it takes."""

    def __init__(self, *, sample_rate: int) -> None:
        self._rate = sample_rate
        self._segments: list[_Segment] = []
        self._open: _Segment | None = None
        self._setup: tuple[str, str, int] | None = None
        self.stop_at: float | None = None
        """Presentation time in seconds after which audio is dropped."""
        self.repair = SoundRepair()
        """Repairs damaged samples, and counts them."""
        self.lost_seconds = 0.0
        """Duration of the audio that was left out because earlier audio has the same time stamps."""
        self.flags: dict[str, Any] = {}

    @property
    def start(self) -> float | None:
        """Presentation time of the first sample in seconds; None while the track is empty."""
        return min((segment.start for segment in self._segments), default=None)

    @property
    def end(self) -> float:
        """Presentation time of the end of the last sample in seconds."""
        return max((segment.end for segment in self._segments), default=0.0)

    def add(self, frame: AudioFrame) -> None:
        """Appends a decoded frame; a frame without a time stamp follows its predecessor.

        Raises:
            av.error.FFmpegError, ValueError: the audio cannot be resampled.
        """
        time = frame.time
        if time is None:
            time = self._open.end if self._open else 0.0
        if self.stop_at is not None and time >= self.stop_at:
            return
        setup = (frame.format.name, frame.layout.name, frame.sample_rate)
        if self._open and (setup != self._setup or abs(time - self._open.end) > _STAMP_TOLERANCE):
            self._close()
        if self._open is None:
            # FFmpeg mixes down to mono here, because PyAV crashes when it converts eight planar channels to an array.
            resampler = av.AudioResampler(format="s16", layout="mono", rate=self._rate)
            self._open = _Segment(start=time, rate=frame.sample_rate, resampler=resampler)
            self._segments.append(self._open)
            self._setup = setup
        self._collect(self._open, self.repair(frame))
        self._open.samples_in += frame.samples

    def finish(self, *, start: float, samples: int) -> NDArray[np.int16]:
        """Returns the audio that begins at presentation time `start` (in seconds), int16 [samples].

        Gaps become silence; where segments overlap, the earlier one is kept.
        """
        self._close()
        pcm = np.zeros(samples, dtype=np.int16)
        filled = covered = 0
        for segment in sorted(self._segments, key=lambda segment: segment.start):
            audio = np.concatenate(segment.chunks) if segment.chunks else np.zeros(0, dtype=np.int16)
            first = round((segment.start - start) * self._rate)
            begin, end = max(first, filled), min(first + len(audio), samples)
            hidden = (min(filled, end) - max(first, 0)) / self._rate
            if hidden > _FLAGGED_SILENCE:
                self.lost_seconds += hidden
            if begin < end:
                pcm[begin:end] = audio[begin - first : end - first]
                covered += end - begin
                filled = end
        self.flags |= self.repair.flags()
        silent = (samples - covered) / self._rate
        if silent > _FLAGGED_SILENCE:
            self.flags["silence_added_seconds"] = round(silent, 3)
        return pcm

    def _close(self) -> None:
        if self._open is not None:
            segment, self._open = self._open, None
            self._collect(segment, None)

    @staticmethod
    def _collect(segment: _Segment, frame: AudioFrame | None) -> None:
        segment.chunks += [piece.to_ndarray()[0] for piece in segment.resampler.resample(frame)]
