"""Properties of every clip plan, for any data set and settings."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.plan.clips import ClipPlan, ClipPlanner
from pipeline.plan.rows import Rows
from settings import Config, from_dict

RATE = 16000
QUICK = settings(max_examples=40, deadline=None, derandomize=True)


@st.composite
def planners(draw: st.DrawFn) -> ClipPlanner:
    """A planner for up to eight samples of any length and size; their audio may have another length, or be missing."""
    count, stride = draw(st.integers(1, 8)), draw(st.integers(1, 4))
    fps = draw(st.sampled_from([2.0, 7.5, 10.0, 25.0]))

    def column(low: int, high: int) -> np.ndarray:
        return np.array(draw(st.lists(st.integers(low, high), min_size=count, max_size=count)))

    frames = column(1, 300)
    matching = np.rint(frames / (fps * stride) * RATE).astype(np.int64)
    audio = matching if draw(st.booleans()) else column(0, 10 * RATE).astype(np.int64)
    low, high = sorted(draw(st.tuples(st.floats(0.01, 1), st.floats(0.01, 1))))
    ratio = draw(st.floats(1, 4))
    tree = {
        "seed": draw(st.integers(0, 2**40)),
        "clip": {"frames": draw(st.integers(1, 40)), "fps": fps},
        "audio": {"seconds": draw(st.sampled_from([0.0, 0.1, 1.0, 5.0]))},
        "augment": {"enabled": draw(st.booleans()), "crop_area": [low, high], "crop_ratio": [1 / ratio, ratio]},
        # No mixing: with that, a row depends on another sample too.
        "audio_augment": {
            "shift_seconds": draw(st.sampled_from([0.0, 0.1, 100.0])),
            "gain_db": draw(st.sampled_from([0.0, 6.0])),
            "time_masks": draw(st.integers(0, 2)),
            "time_mask_frames": 1,
            "frequency_masks": draw(st.integers(0, 2)),
        },
    }
    data = SimpleNamespace(frames=frames, width=column(2, 500), height=column(2, 500), audio_samples=audio)
    return ClipPlanner(config=from_dict(Config, tree), dataset=data, fps=fps * stride)


@st.composite
def batches(draw: st.DrawFn) -> tuple[ClipPlanner, np.ndarray, int]:
    """A planner, some ids of its samples in any order, and an epoch."""
    planner = draw(planners())
    known = st.integers(0, len(planner.dataset.frames) - 1)
    return planner, np.array(draw(st.lists(known, min_size=1, max_size=12))), draw(st.integers(0, 1000))


def check_within(planner: ClipPlanner, plan: ClipPlan) -> None:
    data, ids = planner.dataset, plan.ids
    top, left, height, width = plan.window.T
    assert np.all((top >= 0) & (left >= 0) & (height >= 1) & (width >= 1))
    assert np.all((top + height <= data.height[ids]) & (left + width <= data.width[ids]))
    last = np.maximum(data.frames[ids] - planner.span, 0)
    assert np.all((plan.start_frame >= 0) & (plan.start_frame <= last))
    assert np.array_equal(plan.start, plan.start_frame / planner.fps)
    room = np.maximum(data.audio_samples[plan.audio_ids] - planner.config.audio_samples, 0)
    assert np.all((plan.audio_start >= 0) & (plan.audio_start <= room))
    assert np.all(np.isfinite(plan.color))


def rows_of(plan: Rows, rows: np.ndarray) -> dict[str, Any]:
    found = {}
    for name, value in vars(plan).items():
        if value is not None:
            found[name] = rows_of(value, rows) if isinstance(value, Rows) else value[rows].tolist()
    return found


@QUICK
@given(batch=batches())
def test_training_clips_lie_within_their_samples(batch):
    planner, ids, epoch = batch
    plan = planner.train(ids, epoch=epoch, purpose="train")
    assert np.array_equal(plan.ids, ids)
    check_within(planner, plan)


@QUICK
@given(batch=batches(), clips=st.integers(1, 6), crops=st.integers(1, 4))
def test_uniform_clips_lie_within_their_samples_from_end_to_end(batch, clips, crops):
    planner, ids, _ = batch
    plan = planner.uniform(ids, clips=clips, crops=crops)
    assert np.array_equal(plan.ids, ids.repeat(clips * crops))
    check_within(planner, plan)
    starts = plan.start_frame.reshape(len(ids), clips, crops)
    assert np.all(np.diff(starts, axis=1) >= 0)
    assert np.all(starts == starts[:, :, :1])
    if clips > 1:
        assert np.all(starts[:, 0] == 0)
        assert np.array_equal(starts[:, -1, 0], np.maximum(planner.dataset.frames[ids] - planner.span, 0))


@QUICK
@given(batch=batches(), data=st.data())
def test_the_plan_of_a_permuted_batch_is_the_permuted_plan(batch, data):
    planner, ids, epoch = batch
    order = np.array(data.draw(st.permutations(range(len(ids)))))
    for plan in (lambda i: planner.train(i, epoch=epoch, purpose="train"), lambda i: planner.uniform(i, clips=1)):
        assert rows_of(plan(ids[order]), np.arange(len(ids))) == rows_of(plan(ids), order)


@QUICK
@given(batch=batches(), other=st.integers(0, 2**31))
def test_a_row_depends_on_its_own_sample_only(batch, other):
    planner, ids, epoch = batch
    together = planner.train(ids, epoch=epoch, purpose="train")
    alone = planner.train(ids[:1], epoch=epoch, purpose="train")
    assert rows_of(alone, np.array([0])) == rows_of(together, np.array([0]))
    # It does not depend on the other samples of the data set either.
    rng = np.random.default_rng(other)
    for column in vars(planner.dataset).values():
        others = np.flatnonzero(np.arange(len(column)) != ids[0])
        column[others] = rng.integers(2, 200, len(others))
    assert rows_of(planner.train(ids[:1], epoch=epoch, purpose="train"), np.array([0])) == rows_of(alone, np.array([0]))
