"""Repairs decoded sound whose samples are not finite or far out of range, before it is mixed and resampled."""

from __future__ import annotations

from typing import Any

import av
import numpy as np
from av.audio.frame import AudioFrame
from numpy.typing import NDArray

_FORMATS = ("flt", "fltp", "dbl", "dblp")
"""Sample formats that can hold values beyond full scale, which is 1."""
_WILD = 100.0
"""Magnitude above which a value is damage, not loudness: 40 dB above full scale."""
_SOUNDING = 1e-3
"""Peak above which a frame counts as sounding: -60 dB."""
_MOST_SILENCED = 0.25
"""Largest share of samples that may be replaced by silence."""
_MOST_CLIPPED = 0.5
"""Largest share of the samples of sounding frames that may be beyond full scale."""
_FLAGGED_CLIPPING = 1e-3
"""Share of samples beyond full scale that is flagged; lossy codecs often exceed it for single samples."""
_MOST_PLANES = 7
"""Number of planar channels that PyAV 18.1 can convert to an array; with eight it crashes."""


class SoundRepair:
    """Silences samples that are not finite or far out of range, and counts them and clipped ones, for one stream."""

    def __init__(self) -> None:
        self._samples = 0
        self._sounding = 0
        self._not_finite = 0
        self._wild = 0
        self._clipped = 0
        self._peak = 0.0
        self._packer: av.AudioResampler | None = None
        self._packed_setup: tuple[str, str, int] | None = None

    def __call__(self, frame: AudioFrame) -> AudioFrame:
        """Returns the frame, or a repaired copy. Values that are only too loud are kept; conversion clamps them."""
        if frame.format.name not in _FORMATS or not frame.samples:
            return frame
        packed = self._packed(frame)
        values = packed.to_ndarray()
        size = np.abs(values)
        peak = float(size.max())
        self._samples += values.size
        if peak <= _SOUNDING:
            return frame
        self._sounding += values.size
        if peak <= 1:
            return frame
        finite = np.isfinite(values)
        sane = finite & (size <= _WILD)
        self._not_finite += int(np.count_nonzero(~finite))
        self._wild += int(np.count_nonzero(finite & ~sane))
        self._clipped += int(np.count_nonzero(sane & (size > 1)))
        self._peak = max(self._peak, float(size[finite].max(initial=0)))
        return frame if sane.all() else _replaced(packed, np.where(sane, values, 0))

    def problem(self) -> str | None:
        """Says why the sound cannot be used; None if it can."""
        if self._not_finite + self._wild > _MOST_SILENCED * self._samples:
            share = (self._not_finite + self._wild) / self._samples
            return f"{share:.0%} of its samples are not finite or more than {_WILD:g} times full scale"
        if self._clipped + self._wild > _MOST_CLIPPED * self._sounding:
            share = (self._clipped + self._wild) / self._sounding
            return f"{share:.0%} of its samples are beyond full scale, which is 1; the largest is {self._peak:.3g}"
        return None

    def flags(self) -> dict[str, Any]:
        """What was repaired: counts of samples, and the share of samples that are clamped."""
        flags: dict[str, Any] = {}
        if self._not_finite:
            flags["not_finite_samples"] = self._not_finite
        if self._wild:
            flags["out_of_range_samples"] = self._wild
        if self._clipped > _FLAGGED_CLIPPING * self._samples:
            flags["clipped_share"] = round(self._clipped / self._samples, 4)
        return flags

    def _packed(self, frame: AudioFrame) -> AudioFrame:
        if not frame.format.is_planar or frame.layout.nb_channels <= _MOST_PLANES:
            return frame
        setup = (frame.format.name, frame.layout.name, frame.sample_rate)
        if self._packer is None or setup != self._packed_setup:
            form = frame.format.name.removesuffix("p")
            self._packer = av.AudioResampler(format=form, layout=frame.layout, rate=frame.sample_rate)
            self._packed_setup = setup
        (packed,) = self._packer.resample(frame)
        return packed


def _replaced(frame: AudioFrame, values: NDArray[Any]) -> AudioFrame:
    copy = av.AudioFrame.from_ndarray(values, format=frame.format.name, layout=frame.layout)
    copy.sample_rate, copy.pts, copy.time_base = frame.sample_rate, frame.pts, frame.time_base
    return copy
