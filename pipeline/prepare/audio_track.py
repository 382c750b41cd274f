"""Places decoded sound on a sample's time line as mono 16-bit PCM, by its time stamps."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import av
import av.error
import numpy as np
from av.audio.frame import AudioFrame
from numpy.typing import NDArray

# Stamps that stray less than this from the count of samples are rounding (1 ms in Matroska and FLV) or jitter; beyond
# it they are a gap, an overlap or drift, and the sound is put where its stamp says. Half a frame at 25 fps.
_STAMP_TOLERANCE = 0.02
# Sound tracks often end a few hundredths of a second before the picture: that is not worth a flag.
_FLAGGED_SILENCE = 0.1


@dataclass
class _Run:
    """Sound without a gap: one resampler, one start."""

    start: float
    rate: int
    resampler: av.AudioResampler
    samples_in: int = 0
    chunks: list[NDArray[np.int16]] = field(default_factory=list)

    @property
    def expected(self) -> float:
        return self.start + self.samples_in / self.rate


class AudioTrack:
    """Collects the sound of one stream; memory is bounded by `stop_at` once it is set."""

    def __init__(self, *, sample_rate: int) -> None:
        self._rate = sample_rate
        self._runs: list[_Run] = []
        self._open: _Run | None = None
        self._setup: tuple[str, str, int] | None = None
        self.stop_at: float | None = None
        """Presentation time in seconds from which on sound is not wanted."""
        self.flags: dict[str, Any] = {}

    @property
    def start(self) -> float | None:
        """Presentation time of the first sample in seconds, None before there is any."""
        return min((run.start for run in self._runs), default=None)

    @property
    def end(self) -> float:
        """Presentation time of the end of the last sample in seconds."""
        return max((run.expected for run in self._runs), default=0.0)

    def add(self, frame: AudioFrame) -> None:
        """Takes the next frame; one without a time follows its predecessor.

        Raises:
            av.error.FFmpegError, ValueError: sound that cannot be resampled.
        """
        time = frame.time
        if time is None:
            time = self._open.expected if self._open else 0.0
        if self.stop_at is not None and time >= self.stop_at:
            return
        setup = (frame.format.name, frame.layout.name, frame.sample_rate)
        if self._open and (setup != self._setup or abs(time - self._open.expected) > _STAMP_TOLERANCE):
            self._close()
        if self._open is None:
            # Straight to mono 16 bit: reading planar frames of eight channels as arrays crashes PyAV.
            resampler = av.AudioResampler(format="s16", layout="mono", rate=self._rate)
            self._open = _Run(start=time, rate=frame.sample_rate, resampler=resampler)
            self._runs.append(self._open)
            self._setup = setup
        self._collect(self._open, frame)
        self._open.samples_in += frame.samples

    def finish(self, *, start: float, samples: int) -> NDArray[np.int16]:
        """int16 [samples], the sound from presentation time `start` on; gaps are silent, overlaps keep the first."""
        self._close()
        pcm = np.zeros(samples, dtype=np.int16)
        filled = covered = 0
        for run in sorted(self._runs, key=lambda run: run.start):
            sound = np.concatenate(run.chunks) if run.chunks else np.zeros(0, dtype=np.int16)
            first = round((run.start - start) * self._rate)
            begin, end = max(first, filled), min(first + len(sound), samples)
            if begin < end:
                pcm[begin:end] = sound[begin - first : end - first]
                covered += end - begin
                filled = end
        silent = (samples - covered) / self._rate
        if silent > _FLAGGED_SILENCE:
            self.flags["silence_added_seconds"] = round(silent, 3)
        return pcm

    def _close(self) -> None:
        if self._open is not None:
            run, self._open = self._open, None
            self._collect(run, None)

    @staticmethod
    def _collect(run: _Run, frame: AudioFrame | None) -> None:
        run.chunks += [piece.to_ndarray()[0] for piece in run.resampler.resample(frame)]
