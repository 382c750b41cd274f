"""Rows are the windows that the documentation describes, and their clips lie where it says."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest

from pipeline.plan.clips import ClipPlanner
from search.embed.windows import Windows
from settings import AudioConfig, ClipConfig, Config

FPS, RATE = 10.0, 16000
CONFIG = Config(clip=ClipConfig(frames=4, fps=10.0, size=32))


def planner(frames: list[int], *, video: bool = True, audio: AudioConfig | None = None) -> ClipPlanner:
    counts = np.array(frames)
    data = SimpleNamespace(
        frames=counts if video else 0 * counts,
        width=np.full(len(counts), 64 if video else 0),
        height=np.full(len(counts), 48 if video else 0),
        audio_samples=(counts / FPS * RATE).astype(np.int64),
    )
    config = CONFIG if audio is None else Config(clip=CONFIG.clip, audio=audio)
    return ClipPlanner(config=config, dataset=data, fps=FPS)


def by_hand(seconds: float, every: float) -> list[tuple[float, float]]:
    """The windows of one sample, by the rule in words."""
    count, rest = divmod(seconds, every)
    ends = [every * k for k in range(1, int(count) + 1)]
    if rest >= every / 2 or not ends:
        ends.append(seconds)
    ends[-1] = seconds
    return list(zip([0.0, *ends[:-1]], ends, strict=True))


@pytest.mark.parametrize("every", [0.5, 1.0, 2.5, 7.0])
def test_a_rest_of_half_a_window_or_more_is_a_window_of_its_own(every: float) -> None:
    seconds = np.array([0.3, 1.0, 1.1, 1.7, 4.0, 8.9, 20.0])
    windows = Windows(seconds, every=every)
    wanted = [(i, *window) for i, length in enumerate(seconds) for window in by_hand(float(length), every)]
    found = [
        row
        for number in range(math.ceil(len(windows) / 4))
        for row in zip(*windows.part(number, size=4)[1:], strict=True)
    ]
    assert len(found) == len(windows) == len(wanted)
    np.testing.assert_allclose(found, wanted)


def test_without_windows_each_sample_is_one_row() -> None:
    rows = Windows(np.array([3.0, 0.4]), every=0).part(0, size=10)
    assert (rows.ids.tolist(), rows.begin.tolist(), rows.end.tolist()) == ([0, 1], [0.0, 0.0], [3.0, 0.4])


@pytest.mark.parametrize("video", [True, False])
@pytest.mark.parametrize("clips", [1, 2, 5])
def test_over_whole_samples_the_clips_are_those_of_evaluation(clips: int, video: bool) -> None:
    plans = planner([3, 4, 5, 37, 40, 100], video=video)
    ids = np.arange(6)
    seconds = np.array([3, 4, 5, 37, 40, 100]) / FPS
    wanted, found = plans.uniform(ids, clips=clips), plans.windows(ids, 0 * seconds, seconds, clips=clips)
    for name, value in vars(wanted).items():
        np.testing.assert_array_equal(getattr(found, name), value, err_msg=name)


def test_the_clips_of_a_window_begin_and_end_with_it() -> None:
    plan = planner([100]).windows(np.array([0, 0]), np.array([2.0, 4.0]), np.array([4.0, 6.5]), clips=3)
    assert plan.start_frame.tolist() == [20, 28, 36, 40, 51, 61]
    assert (plan.audio_start / RATE).tolist() == plan.start.tolist() == [2.0, 2.8, 3.6, 4.0, 5.1, 6.1]


def test_a_clip_longer_than_its_window_is_centred_within_the_sample() -> None:
    begin, end = np.array([0.0, 2.0, 9.8]), np.array([0.2, 2.2, 10.0])
    plan = planner([100]).windows(np.zeros(3, np.int64), begin, end, clips=2)
    assert plan.start_frame.tolist() == [0, 0, 19, 19, 96, 96]


def test_without_video_the_audio_window_is_centred_too() -> None:
    plans = planner([100], video=False, audio=AudioConfig(seconds=1.0))
    plan = plans.windows(np.array([0]), np.array([4.0]), np.array([6.0]), clips=1)
    assert plan.audio_start.tolist() == [int(4.5 * RATE)]
