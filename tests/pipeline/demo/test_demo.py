"""The demo corpus: images and audio follow from the labels; the files are complete, balanced and reproducible."""

from __future__ import annotations

import csv
from collections import Counter

import av
import numpy as np
import pytest

from pipeline.demo.__main__ import main
from pipeline.demo.corpus import DemoError, causes, make_demo
from pipeline.demo.scene import FPS, KINDS, PITCHES, SAMPLE_RATE, SECONDS, SPEEDS, Flight, render


def decode(path):
    with av.open(str(path)) as container:
        frames = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
    with av.open(str(path)) as container:
        pieces = [(float(frame.time), frame.to_ndarray()[0]) for frame in container.decode(audio=0)]
    return frames, pieces


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    out = tmp_path_factory.mktemp("demo") / "videos"
    assert make_demo(out, videos=3, seed=0) == 3
    return out


def test_files_hold_the_rendered_images_and_sound(corpus):
    kind, speed, _ = causes(2)
    rendered, sound, _ = render(kind, speed, (0, 2))
    frames, pieces = decode(corpus / "00002.mp4")
    assert frames.shape == rendered.shape
    assert np.abs(frames.astype(float) - rendered).mean() < 8
    start = pieces[0][0]
    heard = np.concatenate([piece for _, piece in pieces])[round(-start * SAMPLE_RATE) if start < 0 else 0 :]
    n = min(len(heard), len(sound))
    assert n > 0.98 * SECONDS * SAMPLE_RATE
    # The two waves align best without a shift: images and sound stay synchronous through the codec.
    spectrum = np.fft.rfft(heard[:n], 2 * n) * np.conj(np.fft.rfft(sound[:n], 2 * n))
    shift = int(np.argmax(np.fft.irfft(spectrum)))
    assert min(shift, 2 * n - shift) <= SAMPLE_RATE / FPS / 2


def test_a_second_run_makes_nothing_and_keeps_the_labels_file(corpus):
    before = (corpus / "labels.csv").stat().st_mtime_ns
    assert make_demo(corpus, videos=3, seed=0) == 0
    assert (corpus / "labels.csv").stat().st_mtime_ns == before
    assert not list(corpus.glob(".*.tmp"))


def test_an_interrupted_corpus_is_completed_with_the_same_bytes(corpus):
    lost = (corpus / "00001.mp4").read_bytes()
    (corpus / "00001.mp4").unlink()
    (corpus / ".00001.mp4.123.tmp").write_bytes(b"half")
    assert make_demo(corpus, videos=3, seed=0) == 1
    assert (corpus / "00001.mp4").read_bytes() == lost
    assert not list(corpus.glob(".*.tmp"))


def test_a_folder_with_another_corpus_or_other_files_is_refused(corpus, tmp_path):
    with pytest.raises(DemoError, match="another demo corpus"):
        make_demo(corpus, videos=3, seed=1)
    (tmp_path / "holiday.mp4").touch()
    with pytest.raises(DemoError, match="not empty"):
        make_demo(tmp_path, videos=3, seed=0)
    with pytest.raises(DemoError, match="--videos must be at least 1"):
        make_demo(tmp_path, videos=0, seed=0)


def test_labels_give_kind_and_split_of_each_file(corpus):
    with open(corpus / "labels.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["path"] for row in rows] == ["00000.mp4", "00001.mp4", "00002.mp4"]
    assert [row["kind"] for row in rows] == list(KINDS[:3])
    assert {row["split"] for row in rows} == {"train"}


def test_a_corpus_of_the_default_size_is_balanced_over_kinds_speeds_and_split():
    labels = [causes(number) for number in range(400)]
    assert set(Counter(kind for kind, _, _ in labels).values()) == {50}
    test = [(kind, speed) for kind, speed, split in labels if split == "test"]
    assert len(test) == 80
    assert set(Counter(kind for kind, _ in test).values()) == {10}
    assert max(Counter(speed for _, speed in test).values()) - min(Counter(speed for _, speed in test).values()) <= 8


def test_a_video_depends_only_on_its_seed():
    first, again, other = render(0, 0, (0, 5)), render(0, 0, (0, 5)), render(0, 0, (1, 5))
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not np.array_equal(first[0], other[0])


def test_impacts_are_the_times_at_which_the_shape_turns():
    flight = Flight.draw(np.random.default_rng(3), pixels_per_second=150.0, radius=15.0)
    times = np.linspace(0, SECONDS, 40001)
    path = flight.positions(times)
    assert (path >= -1e-9).all()
    assert (path <= flight.room + 1e-9).all()
    turns = np.diff(np.sign(np.diff(path, axis=0)), axis=0)
    seen = np.sort(np.concatenate([times[1:-1][turns[:, axis] != 0] for axis in (0, 1)]))
    np.testing.assert_allclose(flight.impacts(), seen, atol=2e-4)


def test_speed_is_constant_between_walls():
    flight = Flight.draw(np.random.default_rng(0), pixels_per_second=80.0, radius=15.0)
    steps = np.linalg.norm(np.diff(flight.positions(np.linspace(0, SECONDS, 4001)), axis=0), axis=1) / (SECONDS / 4000)
    assert np.median(steps) == pytest.approx(80, rel=1e-3)


def test_impacts_are_heard_and_seen_at_the_same_time():
    _, sound, impacts = render(0, 1, (0, 1))
    loudness = np.convolve(sound**2, np.ones(160) / 160, mode="same")
    for impact in impacts[np.diff(impacts, prepend=-1) > 0.3]:
        at = int(impact * SAMPLE_RATE)
        if 800 < at < len(sound) - 800:
            assert loudness[at + 200] > 2 * loudness[at - 400]


@pytest.mark.parametrize("speed", range(len(SPEEDS)))
def test_speed_decides_the_pitch(speed):
    _, sound, _ = render(KINDS.index("disc"), speed, (0, speed))
    loudest = np.fft.rfftfreq(len(sound), 1 / SAMPLE_RATE)[np.abs(np.fft.rfft(sound)).argmax()]
    assert loudest == pytest.approx(PITCHES[speed], rel=0.035)


def test_colour_histograms_do_not_reveal_the_kind():
    """Nearest-neighbour accuracy on joint colour histograms stays below 35% (chance is 12.5%)."""
    histograms, kinds = [], []
    for number in range(80):
        kind, speed, _ = causes(number)
        frame = render(kind, speed, (0, number))[0][0]
        cells = (frame // 64).reshape(-1, 3) @ np.array([16, 4, 1])
        histograms.append(np.sqrt(np.bincount(cells, minlength=64) / len(cells)))
        kinds.append(kind)
    histograms, kinds = np.array(histograms), np.array(kinds)
    similarity = histograms @ histograms.T
    np.fill_diagonal(similarity, -1)
    assert np.mean(kinds[similarity.argmax(axis=1)] == kinds) < 0.35


def test_the_command_reports_what_was_made(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["demo", str(tmp_path / "new"), "--videos", "1"])
    assert main() == 0
    assert "1 videos made" in capsys.readouterr().out
    monkeypatch.setattr("sys.argv", ["demo", str(tmp_path / "new"), "--videos", "2"])
    assert main() == 2
