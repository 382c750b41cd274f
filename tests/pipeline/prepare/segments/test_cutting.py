"""Cutting several samples from one pass over a file."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from pipeline.lists.spans import Span
from pipeline.media.frames import FrameReader
from pipeline.media.rejection import RejectedSource
from pipeline.prepare.segments import cutting
from pipeline.prepare.segments.cutting import cut
from settings import PrepareConfig, StorageConfig

CONFIG = PrepareConfig(storage=StorageConfig(fps=25, short_side=48))
SPANS = [Span(10, 12), Span(10.5, 13.2), Span(3, 3.6), Span(30, 31), Span(35.32, 35.9)]


def _cut(path, spans, config=CONFIG, **options):
    return {task.span: result for task, result in cut(path, spans, config, **options)}


@pytest.fixture
def counted(monkeypatch):
    """Counts the decoded video frames."""
    frames = []
    decode = FrameReader.decode

    def counting(self, packet):
        found = decode(self, packet)
        frames.extend(found if packet.stream.type == "video" else [])
        return found

    monkeypatch.setattr(FrameReader, "decode", counting)
    return frames


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".avi"])
def test_segments_begin_within_a_frame_and_a_millisecond(numbered, shown, suffix):
    for span, sample in _cut(numbered(suffix), SPANS).items():
        found = shown(sample)
        assert len(found.seconds) == round((span.end - span.start) * 25)
        assert np.abs(found.seconds - span.start - np.arange(len(found.seconds)) / 25).max() <= 0.041
        beeps = [second - span.start for second in range(40) if span.start <= second < span.end - 0.01]
        assert found.beeps == pytest.approx(beeps, abs=0.001)
        assert sample.flags == {}


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_a_seek_gives_the_same_frames_and_decodes_less(numbered, counted, suffix):
    path, spans = numbered(suffix), [Span(15, 16), Span(35, 36.5), Span(35.5, 37)]
    one_pass = _cut(path, spans, may_seek=False)
    decoded = len(counted)
    counted.clear()
    skipping = _cut(path, spans)
    assert len(counted) < 0.8 * decoded
    assert list(skipping) == list(one_pass)
    for span, sample in skipping.items():
        assert sample.video == one_pass[span].video
        assert len(sample.pcm) == len(one_pass[span].pcm)
        # The noise that AAC fills in differs.
        assert np.abs(sample.pcm.astype(int) - one_pass[span].pcm).max() <= (0 if suffix == ".mkv" else 200)


def test_many_segments_decode_each_frame_once(numbered, counted):
    spans = [Span(start, start + 1.5) for start in range(0, 38, 2)]
    assert len(_cut(numbered(), spans)) == 19
    assert len(counted) <= 40 * 25


def test_more_overlapping_segments_than_encoders(numbered, shown, counted, monkeypatch):
    monkeypatch.setattr(cutting, "_MOST_ENCODERS", 3)
    samples = _cut(numbered(), [Span(1 + number / 100, 4) for number in range(8)])
    assert len(samples) == 8
    assert all(shown(sample).seconds[0] in (1.0, 1.04) for sample in samples.values())
    assert len(counted) < 3 * 40 * 25


def test_overlapping_segments_lose_none_beyond_the_end(numbered, monkeypatch):
    monkeypatch.setattr(cutting, "_MOST_ENCODERS", 3)
    samples = _cut(numbered(), [*(Span(36 + number / 100, 39) for number in range(8)), Span(90, 100)])
    assert len(samples) == 9
    assert str(samples[Span(90, 100)]) == "beyond the end of the file: the file ends at 40.00 s"


def test_the_last_frame_after_a_seek_is_no_still_picture(media, tmp_path):
    frames = [(index / 25, media.flat(100)) for index in range(251)]  # x264 makes every 250th frame a key frame
    path = media.write(tmp_path / "a.mov", frames=frames, sound=[(0.0, np.full(30 * 44100, 0.1, np.float32))])
    for may_seek in (False, True):
        sample = _cut(path, [Span(20, 22)], may_seek=may_seek)[Span(20, 22)]
        assert str(sample).startswith("beyond the end of the file: the file ends at 10.0")


def test_a_segment_in_a_gap_of_the_audio_has_none(media, tmp_path):
    piece = np.full(2 * 44100, 0.1, np.float32)
    path = media.write(tmp_path / "a.mkv", sound=[(0.0, piece), (10.0, piece)])
    sample = _cut(path, [Span(4, 6)], replace(CONFIG, streams="audio"))[Span(4, 6)]
    assert str(sample) == "no audio in the segment"


def test_segments_beyond_the_end(numbered):
    samples = _cut(numbered(), [Span(38, 45), Span(39.8, 50), Span(40, 41), Span(90, 100)])
    assert len(samples[Span(38, 45)].video.frame_bytes) == 50
    assert samples[Span(38, 45)].flags == {"segment_cut_seconds": 5.0}
    assert str(samples[Span(39.8, 50)]) == "too short: 0.2 s, less than min_seconds=0.5"
    assert str(samples[Span(90, 100)]) == "beyond the end of the file: the file ends at 40.00 s"
    assert samples[Span(40, 41)].reason == "beyond the end of the file"


def test_a_segment_longer_than_max_seconds_is_cut_and_flagged(numbered):
    config = replace(CONFIG, max_seconds=4.0)
    samples = [result for _, result in cut(numbered(), [Span(2, 20), None], config)]
    assert [len(sample.video.frame_bytes) for sample in samples] == [100, 100]
    assert [sample.flags for sample in samples] == [{"cut_at_max_seconds": True}] * 2


def test_windows_cover_a_file_and_a_segment(numbered, shown):
    config = replace(CONFIG, windows=15.0)
    found = [(task.item, task.span, shown(sample)) for task, sample in cut(numbered(), [None, Span(1.0, 33.5)], config)]
    whole = [(span, seen) for item, span, seen in found if item is None]
    assert [span.start for span, _ in whole] == [0, 15, 30]
    assert [len(seen.seconds) for _, seen in whole] == [375, 375, 250]
    assert np.concatenate([seen.seconds for _, seen in whole]) == pytest.approx(np.arange(1000) / 25, abs=0.041)
    assert [span for item, span, _ in found if item is not None] == [Span(1, 16), Span(16, 31), Span(31, 33.5)]


def test_sound_alone(numbered):
    config = replace(CONFIG, streams="audio")
    samples = _cut(numbered(), SPANS, config)
    assert [len(samples[span].pcm) for span in SPANS] == [round(16000 * (span.end - span.start)) for span in SPANS]
    both = _cut(numbered(), SPANS)
    assert all(np.array_equal(samples[span].pcm[:16000], both[span].pcm[:16000]) for span in SPANS[:1])


def test_a_file_that_cannot_be_decoded_is_rejected_as_a_whole(tmp_path, clip):
    path = clip("silent.mp4", silent=True)
    with pytest.raises(RejectedSource, match="no audio track"):
        _cut(path, [Span(0, 1)])
    path.write_bytes(b"")
    with pytest.raises(RejectedSource, match="empty file"):
        _cut(path, [Span(0, 1)])


def test_a_truncated_file_gives_the_segments_that_it_has(numbered, tmp_path):
    data = numbered(".mkv").read_bytes()
    path = tmp_path / "cut.mkv"
    path.write_bytes(data[: len(data) // 2])
    samples = _cut(path, [Span(2, 4), Span(30, 32)])
    assert samples[Span(2, 4)].flags == {}
    assert isinstance(samples[Span(30, 32)], RejectedSource)
