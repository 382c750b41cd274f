"""`normalise` on single files: time line, geometry, encoding, rejections."""

from __future__ import annotations

import struct
from fractions import Fraction

import numpy as np
import pytest

from pipeline.media.rejection import RejectedSource
from pipeline.prepare.media import normalise
from settings import PrepareConfig, StorageConfig

SMALL = PrepareConfig(storage=StorageConfig(fps=25, short_side=48))


def flash_seconds(frames: np.ndarray) -> float:
    return float(np.argmax(frames.reshape(len(frames), -1).mean(axis=1) > 128)) / 25


def beep_seconds(pcm: np.ndarray) -> float:
    return float(np.argmax(np.abs(pcm.astype(int)) > 3000)) / 16000


def constant_rate(start: float, end: float, fps: float) -> list[float]:
    return [start + index / fps for index in range(round((end - start) * fps))]


@pytest.mark.parametrize(
    ("times", "sound_start"),
    [
        pytest.param(constant_rate(0, 4, 25), 0.0, id="same start"),
        pytest.param(constant_rate(0, 4, 25), 1.5, id="audio late"),
        pytest.param(constant_rate(0.8, 4, 25), 0.0, id="audio early"),
        pytest.param(constant_rate(7.3, 10.8, 25), 8.0, id="file cut from a longer one"),
        pytest.param(constant_rate(0, 1, 10) + constant_rate(1, 4, 30), 0.3, id="variable frame rate"),
        pytest.param(constant_rate(0, 4, 30000 / 1001), 0.0, id="29.97"),
    ],
)
def test_a_flash_and_a_beep_stay_synchronous(media, tmp_path, times, sound_start):
    event = sound_start + 1.2
    frames = [(time, media.flat(255 if event <= time + 1e-3 < event + 0.3 else 0)) for time in times]
    sound = np.concatenate([np.zeros(round(1.2 * 44100), np.float32), media.tone(0.3), np.zeros(44100, np.float32)])
    path = media.write(tmp_path / "event.mkv", frames=frames, sound=[(sound_start, sound)])

    result = normalise(path, SMALL)

    light, beep = flash_seconds(media.decode(result.video.data)), beep_seconds(result.pcm)
    assert abs(beep - (event - times[0])) < 0.005
    assert abs(light - beep) <= 1 / 25 + 0.005
    assert len(result.pcm) == round(len(result.video.frame_bytes) / 25 * 16000)


def test_a_gap_in_the_audio_becomes_silence_and_shifts_nothing(media, tmp_path):
    frames = [(time, media.flat(50)) for time in constant_rate(0, 4, 25)]
    pieces = [(0.0, media.tone(1.0)), (2.5, media.tone(1.0))]
    pcm = normalise(media.write(tmp_path / "gap.mkv", frames=frames, sound=pieces), SMALL).pcm
    loud = np.abs(pcm.astype(int)).reshape(-1, 160).max(axis=1) > 1000
    assert loud[:99].all()
    assert not loud[102:249].any()
    assert loud[252:349].all()
    assert not loud[352:].any()


def test_audio_is_cut_to_the_length_of_the_video(media, tmp_path):
    frames = [(time, media.flat(index)) for index, time in enumerate(constant_rate(0, 3, 25))]
    long_sound = media.write(tmp_path / "a.mkv", frames=frames, sound=[(0.0, media.tone(8))])
    result = normalise(long_sound, SMALL)
    assert len(result.video.frame_bytes) == 75
    assert len(result.pcm) == 48000
    assert result.flags == {}


def test_each_tick_stores_the_latest_frame_that_has_begun(media, tmp_path):
    times = [0.0, 0.1, 0.5, 0.9]
    frames = [(time, media.flat(60 * index)) for index, time in enumerate(times)]
    config = PrepareConfig(storage=StorageConfig(fps=10, short_side=48), streams="video")
    levels = media.decode(normalise(media.write(tmp_path / "v.mkv", frames=frames), config).video.data).mean((1, 2, 3))
    shown = np.round(levels[:10] / 60).astype(int).tolist()
    assert shown == [0, 1, 1, 1, 1, 2, 2, 2, 2, 3]


def test_a_still_image_is_held_as_long_as_its_audio(media, tmp_path):
    path = media.write(tmp_path / "still.mkv", frames=[(0.0, media.flat(90))], sound=[(0.0, media.tone(3))])
    result = normalise(path, SMALL)
    assert len(result.video.frame_bytes) == 75
    assert result.flags["still_picture"] is True


def test_max_seconds_cuts_both_tracks_and_sets_a_flag(media, tmp_path):
    frames = [(time, media.flat(50)) for time in constant_rate(0, 4, 25)]
    path = media.write(tmp_path / "long.mkv", frames=frames, sound=[(0.0, media.tone(4))])
    result = normalise(path, PrepareConfig(storage=SMALL.storage, max_seconds=1.6))
    assert len(result.video.frame_bytes) == 40
    assert len(result.pcm) == 25600
    assert result.flags["cut_at_max_seconds"] is True


def test_streams_selects_the_required_and_stored_tracks(media, tmp_path):
    frames = [(time, media.flat(50)) for time in constant_rate(0, 1, 25)]
    silent = media.write(tmp_path / "silent.mp4", frames=frames)
    unseen = media.write(tmp_path / "unseen.mp4", sound=[(0.0, media.tone(1))])
    video_only = normalise(silent, PrepareConfig(storage=SMALL.storage, streams="video"))
    assert video_only.pcm is None
    assert len(video_only.video.frame_bytes) == 25
    audio_only = normalise(unseen, PrepareConfig(streams="audio"))
    assert audio_only.video is None
    assert len(audio_only.pcm) == pytest.approx(16000, abs=800)
    with pytest.raises(RejectedSource, match="no audio track"):
        normalise(silent, SMALL)
    with pytest.raises(RejectedSource, match="no video track"):
        normalise(unseen, SMALL)


def test_audio_that_ends_before_the_video_begins_is_rejected(media, tmp_path):
    frames = [(time, media.flat(50)) for time in constant_rate(3, 4, 25)]
    path = media.write(tmp_path / "apart.mkv", frames=frames, sound=[(0.0, media.tone(1))])
    with pytest.raises(RejectedSource, match="audio and video do not overlap"):
        normalise(path, SMALL)


def test_a_short_file_is_rejected_with_the_limit(media, tmp_path):
    frames = [(time, media.flat(50)) for time in constant_rate(0, 0.2, 25)]
    path = media.write(tmp_path / "short.mkv", frames=frames, sound=[(0.0, media.tone(0.2))])
    with pytest.raises(RejectedSource, match=r"too short: 0\.2 s, less than min_seconds=0\.5"):
        normalise(path, SMALL)


def test_the_display_matrix_turns_frames_upright(media, tmp_path):
    image = media.flat(0, width=96, height=48)
    image[:, :48] = 255
    path = media.write(tmp_path / "phone.mp4", frames=[(t, image) for t in constant_rate(0, 1, 25)])
    data = bytearray(path.read_bytes())
    matrix = data.index(b"tkhd") + 44
    # The matrix that phones write for a clockwise turn by 90 degrees: the left side is shown at the top.
    data[matrix : matrix + 36] = struct.pack(">9i", 0, 1 << 16, 0, -1 << 16, 0, 0, 48 << 16, 0, 1 << 30)
    path.write_bytes(data)
    frames = media.decode(normalise(path, PrepareConfig(storage=SMALL.storage, streams="video")).video.data, "gray")
    assert frames.shape[1:] == (96, 48)
    assert frames[0, :44].min() > 200
    assert frames[0, 52:].max() < 60


def test_pixels_become_square(media, tmp_path):
    frames = [(t, media.flat(90, width=48, height=64)) for t in constant_rate(0, 1, 25)]
    path = media.write(tmp_path / "sar.mp4", frames=frames, pixel_aspect=Fraction(16, 9))
    video = normalise(path, PrepareConfig(storage=SMALL.storage, streams="video")).video
    assert (video.width, video.height) == (64, 48)


@pytest.mark.parametrize(("codec", "qualities", "default"), [("vp9", (10, 30, 50), 30), ("jpeg", (2, 4, 12), 4)])
def test_quality_sets_the_size_and_the_quantisation(codec, qualities, default, media, tmp_path):
    rng = np.random.default_rng(0)
    noise = np.kron(rng.integers(0, 255, (15, 12, 16, 3)), np.ones((1, 4, 4, 1))).astype(np.uint8)
    path = media.write(tmp_path / "noise.mp4", frames=[(i / 25, image) for i, image in enumerate(noise)])

    def stored(quality: int) -> bytes:
        storage = StorageConfig(codec=codec, fps=25, short_side=48, quality=quality)
        return normalise(path, PrepareConfig(storage=storage, streams="video")).video.data

    fine, usual, coarse = map(stored, qualities)
    assert len(fine) > 1.2 * len(usual) > 1.2**2 * len(coarse)
    assert stored(0) == stored(default)
    if codec == "jpeg":
        # FFmpeg's table for qscale q is 8 for the mean, then q / 8 times MPEG-1's 16, 16, 19 and so on.
        tables = [data[data.index(b"\xff\xdb") + 5 :] for data in (fine, usual, coarse)]
        assert [list(table[:4]) for table in tables] == [[8, 2 * q, 2 * q, 19 * q // 8] for q in qualities]


def test_a_clip_cut_at_a_group_of_pictures_decodes_to_the_same_frames(media, tmp_path):
    rng = np.random.default_rng(0)
    noise = np.kron(rng.integers(0, 255, (40, 12, 16, 3)), np.ones((1, 4, 4, 1))).astype(np.uint8)
    path = media.write(tmp_path / "noise.mp4", frames=[(i / 25, image) for i, image in enumerate(noise)])
    config = PrepareConfig(storage=StorageConfig(fps=25, short_side=48, gop=8), streams="video")
    blob = normalise(path, config).video
    assert blob.data[24:28] == bytes(4)
    offsets = np.concatenate([[blob.first_frame], blob.first_frame + np.cumsum(blob.frame_bytes)])
    assert offsets[-1] == len(blob.data)
    frames = media.decode(blob.data)
    assert len(frames) == 40
    part = media.decode(blob.data[:32] + blob.data[offsets[16] : offsets[27]])
    np.testing.assert_array_equal(part, frames[16:27])


def test_frames_above_max_pixels_are_rejected_whatever_the_header_says(media, tmp_path):
    path = media.write(
        tmp_path / "bomb.mp4", frames=[(i / 25, media.flat(5, width=640, height=480)) for i in range(25)]
    )
    config = PrepareConfig(storage=SMALL.storage, streams="video", max_pixels=640 * 480 - 1)
    with pytest.raises(RejectedSource, match="too many pixels"):
        normalise(path, config)
    # The same holds if the container understates the size: its sample entry says 64 x 48, the stream 640 x 480.
    data = path.read_bytes()
    entry = data.index(b"avc1", data.index(b"stsd"))
    lying = data[: entry + 28] + struct.pack(">HH", 64, 48) + data[entry + 32 :]
    path.write_bytes(lying)
    with pytest.raises(RejectedSource, match=r"too many pixels|truncated or damaged"):
        normalise(path, config)


def test_a_truncated_file_is_flagged(media, tmp_path):
    rng = np.random.default_rng(1)
    frames = [(i / 25, rng.integers(0, 255, (48, 64, 3), dtype=np.uint8)) for i in range(100)]
    complete = media.write(tmp_path / "complete.mkv", frames=frames, sound=[(0.0, media.tone(4))])
    cut = tmp_path / "cut.mkv"
    cut.write_bytes(complete.read_bytes()[: complete.stat().st_size // 2])
    result = normalise(cut, SMALL)
    assert len(result.video.frame_bytes) < 80
    assert result.flags["ends_early_seconds"] > 1
