"""Placing audio by its time stamps: segments, resampling, down-mixing."""

from __future__ import annotations

from fractions import Fraction

import av
import numpy as np
import pytest

from pipeline.prepare.audio_track import AudioTrack


def frame(values: np.ndarray, *, time: float | None, rate: int = 16000, form: str = "fltp", layout: str = "mono"):
    result = av.AudioFrame.from_ndarray(values, format=form, layout=layout)
    result.sample_rate = rate
    if time is not None:
        result.time_base, result.pts = Fraction(1, rate), round(time * rate)
    return result


def level(value: float, samples: int, channels: int = 1) -> np.ndarray:
    return np.full((channels, samples), value, dtype=np.float32)


def test_eight_planar_channels_are_mixed_to_mono():
    packed = frame(level(0.25, 16000 * 8), time=0.0, form="flt", layout="7.1")
    (planar,) = av.AudioResampler(format="fltp", layout="7.1", rate=16000).resample(packed)
    track = AudioTrack(sample_rate=16000)
    track.add(planar)
    pcm = track.finish(start=0.0, samples=16000)
    assert pcm.dtype == np.int16
    assert pcm[4000:12000].min() > 1000


@pytest.mark.parametrize("value", [1.7, -3.0, 40.0])
def test_peaks_beyond_full_scale_are_clamped(value):
    track = AudioTrack(sample_rate=16000)
    track.add(frame(level(value, 4096), time=0.0))
    pcm = track.finish(start=0.0, samples=4096)
    assert set(np.unique(pcm)) <= ({32767} if value > 0 else {-32768})


def test_coherent_stereo_keeps_its_level():
    track = AudioTrack(sample_rate=16000)
    track.add(frame(level(0.9, 4096, 2), time=0.0, layout="stereo"))
    assert np.abs(track.finish(start=0.0, samples=4096) - 0.9 * 32767).max() < 3


def test_where_segments_overlap_the_earlier_audio_is_kept():
    track = AudioTrack(sample_rate=16000)
    track.add(frame(level(0.1, 16000), time=0.0))
    track.add(frame(level(0.5, 16000), time=0.5))
    pcm = track.finish(start=0.0, samples=24000) / 32767
    np.testing.assert_allclose(pcm[:16000], 0.1, atol=1e-3)
    np.testing.assert_allclose(pcm[16000:], 0.5, atol=1e-3)


def test_drift_is_corrected_by_the_time_stamps():
    # The time stamps of 100 s of audio run 0.5 % slow: by sample count alone the end would be half a second off.
    track = AudioTrack(sample_rate=8000)
    for index in range(1000):
        value = 0.5 if index == 990 else 0.0
        track.add(frame(level(value, 800), time=index * 0.1 * 1.005, rate=8000))
    pcm = track.finish(start=0.0, samples=8000 * 101)
    assert np.argmax(pcm > 8000) / 8000 == pytest.approx(99.0 * 1.005, abs=0.021)


def test_jitter_of_a_millisecond_leaves_no_gaps():
    rng = np.random.default_rng(0)
    track = AudioTrack(sample_rate=16000)
    for index in range(50):
        track.add(frame(level(0.5, 1024), time=max(0.0, index * 0.064 + rng.uniform(-0.001, 0.001))))
    assert (track.finish(start=0.0, samples=50 * 1024)[20:] > 16000).all()


def test_sample_rate_and_layout_may_change_midway():
    track = AudioTrack(sample_rate=16000)
    track.add(frame(level(0.2, 44100, 2), time=0.0, rate=44100, layout="stereo"))
    track.add(frame(level(0.4, 8000), time=1.0, rate=8000))
    pcm = track.finish(start=0.0, samples=32000) / 32767
    np.testing.assert_allclose(pcm[500:15500], 0.2, atol=0.01)
    np.testing.assert_allclose(pcm[16500:31500], 0.4, atol=0.01)


def test_frames_without_time_stamps_follow_each_other():
    track = AudioTrack(sample_rate=16000)
    for _ in range(4):
        track.add(frame(level(0.5, 4000), time=None))
    assert (track.finish(start=0.0, samples=16000) > 16000).all()


def test_audio_after_stop_at_is_dropped():
    track = AudioTrack(sample_rate=16000)
    track.stop_at = 1.0
    for index in range(100):
        track.add(frame(level(0.5, 16000), time=float(index)))
    assert track.end == pytest.approx(1.0)
