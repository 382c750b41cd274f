"""Sound that is not finite or out of range is repaired and flagged, or rejected; it never becomes noise."""

from __future__ import annotations

import json
import wave
from pathlib import Path

import av
import numpy as np
import pytest

from pipeline.load.reference.raw_decoding import decode_pcm
from pipeline.media.rejection import RejectedSource
from pipeline.prepare.media import normalise
from pipeline.prepare.run import prepare
from pipeline.prepare.summary import print_summary
from settings import PrepareConfig

RATE = 16000
CONFIG = PrepareConfig(streams="audio")
TONE = (0.5 * np.sin(2 * np.pi * 440 * np.arange(RATE) / RATE)).astype(np.float32)


def float_wav(path: Path, values: np.ndarray, channels: str = "mono") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_f32le", rate=RATE, layout=channels)
        frame = av.AudioFrame.from_ndarray(values.astype(np.float32).reshape(1, -1), format="flt", layout=channels)
        frame.sample_rate = RATE
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize(
    ("value", "flag"),
    [(np.nan, "not_finite_samples"), (np.inf, "not_finite_samples"), (1e30, "out_of_range_samples")],
)
def test_samples_that_are_no_sound_become_silence_and_are_counted(tmp_path, value, flag):
    values = TONE.copy()
    values[4000:4400] = value
    path = float_wav(tmp_path / "a.wav", values)
    result = normalise(path, CONFIG)
    assert result.flags == {flag: 400}
    expected = np.where(np.isin(np.arange(RATE), np.arange(4000, 4400)), 0, 32767 * TONE)
    assert np.abs(result.pcm - expected).max() < 3
    window = decode_pcm(str(path), origin=0.0, rate=RATE, start=3000, length=3000)
    assert np.abs(window - expected[3000:6000]).max() < 3


@pytest.mark.parametrize("value", [np.nan, -np.inf, 1e30])
def test_a_file_with_too_much_of_it_is_rejected(tmp_path, value):
    values = TONE.copy()
    values[:8000] = value
    path = float_wav(tmp_path / "a.wav", values)
    with pytest.raises(RejectedSource, match="sound out of range: 50% of its samples are not finite"):
        normalise(path, CONFIG)
    with pytest.raises(ValueError, match="50% of its samples"):
        decode_pcm(str(path), origin=0.0, rate=RATE, start=0, length=RATE)


def test_whole_numbers_stored_as_floats_are_rejected(tmp_path):
    with pytest.raises(RejectedSource, match="sound out of range"):
        normalise(float_wav(tmp_path / "a.wav", 60 * TONE), CONFIG)


def test_single_peaks_are_clamped_and_many_are_flagged(tmp_path):
    values = TONE.copy()
    values[100:110] = 1.3
    few = normalise(float_wav(tmp_path / "few.wav", values), CONFIG)
    assert few.flags == {}
    assert (few.pcm[100:110] == 32767).all()
    values[100:900] = 1.3
    assert normalise(float_wav(tmp_path / "many.wav", values), CONFIG).flags == {"clipped_share": 0.05}


def test_eight_channels_are_repaired(tmp_path):
    values = np.repeat(TONE[:, None], 8, axis=1)
    values[500:600, 3] = np.nan
    result = normalise(float_wav(tmp_path / "a.wav", values, "7.1"), CONFIG)
    assert result.flags == {"not_finite_samples": 100}


def test_flags_are_listed_by_file_in_words(tmp_path, capsys):
    values = TONE.copy()
    values[:10] = np.nan
    float_wav(tmp_path / "src/bad.wav", values)
    float_wav(tmp_path / "src/good.wav", TONE)
    for _ in range(2):
        with wave.open(str(tmp_path / "part.wav"), "wb") as part:
            part.setparams((1, 2, RATE, 0, "NONE", ""))
            part.writeframes((9000 * TONE).astype("<i2").tobytes())
        with (tmp_path / "src/joined.wav").open("ab") as joined:
            joined.write((tmp_path / "part.wav").read_bytes())
    print_summary(prepare(tmp_path / "src", tmp_path / "out", config=CONFIG, workers=1), tmp_path / "out")
    bad, lost = map(json.loads, (tmp_path / "out/flagged.jsonl").read_text(encoding="utf-8").splitlines())
    sentence = "This many samples of the sound are not finite numbers and were replaced by silence."
    assert bad == {"source": "bad.wav", "flag": "not_finite_samples", "value": 10, "sentence": sentence}
    assert (lost["source"], lost["flag"], lost["value"]) == ("joined.wav", "lost_seconds", 1.0)
    printed = capsys.readouterr().out
    assert "flagged.jsonl" in printed
    assert "joined.wav" in printed.split("rejected.jsonl")[-1]
