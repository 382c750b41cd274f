"""Files whose clock starts again: both parts, one after the other, with one offset for both tracks."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from pipeline.media.clock import JoinedClock
from pipeline.prepare.media import normalise
from settings import PrepareConfig, StorageConfig

CONFIG = PrepareConfig(storage=StorageConfig(fps=25, short_side=48))


def recording(path: Path, seconds: int) -> bytes:
    """A flash and a beep begin with every second but the first, and last 0.2 s."""
    codecs = {"ts": ("mpeg2video", "mp2"), "mpg": ("mpeg2video", "mp2"), "mp4": ("mpeg4", "aac")}
    video_codec, audio_codec = codecs.get(path.suffix[1:], ("mpeg4", "mp2"))
    with av.open(str(path), "w") as container:
        video = container.add_stream(video_codec, rate=25)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        audio = container.add_stream(audio_codec, rate=48000, layout="mono")
        fifo = av.AudioResampler(format=audio.format.name, layout="mono", rate=48000, frame_size=1152)
        for second in range(seconds):
            for index in range(25):
                bright = second > 0 and index < 5
                image = np.full((48, 64, 3), 255 if bright else 0, dtype=np.uint8)
                container.mux(video.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
            time = np.arange(48000) / 48000
            values = 16000 * np.sin(2 * np.pi * 1000 * time) * (time < 0.2) * (second > 0)
            frame = av.AudioFrame.from_ndarray(values.astype(np.int16)[None], format="s16", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = 48000, second * 48000, Fraction(1, 48000)
            for piece in fifo.resample(frame):
                container.mux(audio.encode(piece))
        for stream in (video, audio):
            container.mux(stream.encode(None))
    return path.read_bytes()


def onsets(loud: np.ndarray, rate: float) -> list[float]:
    return [round(float(place) / rate, 2) for place in np.flatnonzero(loud[1:] & ~loud[:-1]) + 1]


@pytest.mark.parametrize("suffix", ["ts", "mpg", "mkv"])
@pytest.mark.parametrize("lengths", [(2, 3), (3, 2)])
def test_joined_recordings_follow_each_other_in_step(media, tmp_path, suffix, lengths):
    parts = [recording(tmp_path / f"{number}.{suffix}", seconds) for number, seconds in enumerate(lengths)]
    joined = tmp_path / f"joined.{suffix}"
    joined.write_bytes(b"".join(parts))
    result = normalise(joined, CONFIG)
    light = media.decode(result.video.data, "gray").mean(axis=(1, 2)) > 128
    level = np.abs(result.pcm[: len(result.pcm) // 160 * 160].astype(int)).reshape(-1, 160).max(axis=1) > 4000
    flashes, beeps = onsets(light, 25), onsets(level, 100)
    expected = [*range(1, lengths[0]), *range(lengths[0] + 1, 5)]
    assert flashes == pytest.approx(expected, abs=0.13)
    assert beeps == pytest.approx(flashes, abs=0.06)
    assert result.flags["clock_restarts"] == 1
    assert "lost_seconds" not in result.flags


def test_a_second_file_that_ffmpeg_does_not_read_is_flagged_as_lost(tmp_path):
    path = tmp_path / "joined.mp4"
    path.write_bytes(recording(tmp_path / "0.mp4", 2) + recording(tmp_path / "1.mp4", 3))
    assert normalise(path, CONFIG).flags["lost_seconds"] == pytest.approx(3, abs=0.6)
    assert "lost_seconds" not in normalise(tmp_path / "0.mp4", CONFIG).flags


@pytest.mark.parametrize(("suffix", "codec"), [("opus", "libopus"), ("flac", "flac")])
def test_both_parts_of_joined_sound_files_are_kept_or_the_loss_is_flagged(tmp_path, suffix, codec):
    path = tmp_path / f"joined.{suffix}"
    with path.open("wb") as joined:
        for seconds, hertz in ((1, 500), (2, 1500)):
            part = tmp_path / f"{hertz}.{suffix}"
            with av.open(str(part), "w") as container:
                stream = container.add_stream(codec, rate=48000, layout="mono")
                resampler = av.AudioResampler(format=stream.format.name, layout="mono", rate=48000, frame_size=960)
                values = 9000 * np.sin(2 * np.pi * hertz * np.arange(48000 * seconds) / 48000)
                frame = av.AudioFrame.from_ndarray(values.astype(np.int16)[None], format="s16", layout="mono")
                frame.sample_rate = 48000
                for piece in resampler.resample(frame):
                    container.mux(stream.encode(piece))
                container.mux(stream.encode(None))
            joined.write(part.read_bytes())
    result = normalise(path, PrepareConfig(streams="audio"))
    pcm = result.pcm
    # FFmpeg's FLAC parser skips frames where the second file begins.
    assert len(pcm) / 16000 + result.flags.get("lost_seconds", 0) == pytest.approx(3, abs=0.03)
    quarters = pcm[: len(pcm) // 4000 * 4000].reshape(-1, 4000)
    hertz = np.abs(np.fft.rfft(quarters)).argmax(axis=1) * 4
    assert np.count_nonzero(np.abs(hertz - 500) < 10) >= 3
    assert np.count_nonzero(np.abs(hertz - 1500) < 10) >= 6


def packets(times: list[float]) -> list[av.Packet]:
    made = []
    for time in times:
        packet = av.Packet(b"x")
        packet.time_base, packet.dts, packet.duration = Fraction(1, 1000), round(1000 * time), 40
        packet.pts = packet.dts
        made.append(packet)
    return made


@pytest.mark.parametrize(
    ("times", "steady", "restarts"),
    [
        pytest.param([5, 5.04, 1, 1.04], [5, 5.04, 5.08, 5.12], 1, id="restart"),
        pytest.param([5, 5.04, 1, 5.12], [5, 5.04, None, 5.12], 0, id="one damaged stamp"),
        pytest.param([5, 5.04, 30, 30.04], [5, 5.04, 5.08, 5.12], 1, id="jump"),
        pytest.param([5, 5.04, 9, 9.04], [5, 5.04, 9, 9.04], 0, id="gap"),
        pytest.param([5, 5.04, 5.0, 5.08], [5, 5.04, 5.0, 5.08], 0, id="small step back"),
    ],
)
def test_only_a_restart_moves_the_stamps(times, steady, restarts):
    clock = JoinedClock(jumps=True)
    moved = list(clock.steady(packets(times)))
    assert [None if packet.dts is None else packet.dts / 1000 for packet in moved] == steady
    assert clock.restarts == restarts
