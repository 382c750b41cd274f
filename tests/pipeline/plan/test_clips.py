"""Clip plans: pure functions of (seed, epoch, id, purpose) that follow the documented distributions."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torchvision.transforms import RandomResizedCrop

from pipeline.plan.augment import CROP_ATTEMPTS, centre_windows, color_matrices, random_resized_windows, spread_windows
from pipeline.plan.clips import ClipPlan, ClipPlanner, frame_stride, uniforms
from pipeline.plan.mismatched_pairs import MismatchedPairs
from pipeline.plan.selection import Selection
from settings import Config
from settings.errors import ConfigError
from settings.load import from_dict

N = 4000


def dataset(frames: int = 100, *, width: int = 192, height: int = 144, audio: int | None = None) -> SimpleNamespace:
    return SimpleNamespace(
        frames=np.full(N, frames, dtype=np.int32),
        width=np.full(N, width, dtype=np.int32),
        height=np.full(N, height, dtype=np.int32),
        audio_samples=np.full(N, frames * 1600 if audio is None else audio, dtype=np.int64),
    )


def planner(data: SimpleNamespace | None = None, *, fps: float = 10.0, **sections: object) -> ClipPlanner:
    return ClipPlanner(config=from_dict(Config, sections), dataset=data or dataset(), fps=fps)


def mismatched(**sections: object) -> MismatchedPairs:
    config = from_dict(Config, sections)
    return MismatchedPairs(config=config, dataset=dataset(), fps=10.0, ids=Selection(N))


def same(a: ClipPlan, b: ClipPlan) -> bool:
    return all(np.array_equal(x, y) for x, y in zip(vars(a).values(), vars(b).values(), strict=True))


def test_uniforms_are_uniform_and_independent() -> None:
    u = uniforms(np.arange(100_000), 8, seed=0, epoch=0, purpose="train")
    assert u.min() >= 0
    assert u.max() < 1
    counts = np.stack([np.histogram(column, bins=64, range=(0, 1))[0] for column in u.T])
    expected = 100_000 / 64
    chi_square = ((counts - expected) ** 2 / expected).sum(axis=1)
    assert np.all(chi_square < 130)  # 63 degrees of freedom: P(> 130) is about 1e-6
    correlation = np.corrcoef(u.T) - np.eye(8)
    assert np.abs(correlation).max() < 0.02
    assert abs(np.corrcoef(u[:-1, 0], u[1:, 0])[0, 1]) < 0.02


def test_uniforms_differ_between_seeds_epochs_and_purposes() -> None:
    ids = np.arange(10_000)
    streams = [
        uniforms(ids, 1, seed=seed, epoch=epoch, purpose=purpose)[:, 0]
        for seed, epoch, purpose in ((0, 0, "a"), (1, 0, "a"), (0, 1, "a"), (0, 0, "b"))
    ]
    assert np.abs(np.corrcoef(streams) - np.eye(4)).max() < 0.05


def test_a_samples_plan_does_not_depend_on_its_batch() -> None:
    p = planner()
    ids = np.array([7, 3, 999, 0])
    together = p.train(ids, epoch=2, purpose="train")
    for row in range(4):
        alone = p.train(ids[row : row + 1], epoch=2, purpose="train")
        assert same(alone, together[row : row + 1])


def test_plans_never_change() -> None:
    """A change of these numbers would silently change every resumed run."""
    plan = planner().train(np.array([0, 1, 2]), epoch=0, purpose="train")
    assert plan.start_frame.tolist() == [20, 76, 53]
    assert plan.window.tolist() == [[2, 43, 123, 101], [15, 13, 127, 117], [26, 19, 117, 140]]
    assert plan.flip.tolist() == [True, False, True]


def test_starts_are_uniform_over_all_complete_clips() -> None:
    plan = planner(dataset(frames=20)).train(np.arange(N), epoch=0, purpose="train")
    counts = np.bincount(plan.start_frame)
    assert len(counts) == 20 - 16 + 1
    assert np.abs(counts / N - 1 / 5).max() < 0.03


def test_starts_leave_room_for_the_stride() -> None:
    p = planner(dataset(frames=40), fps=20.0)
    plan = p.train(np.arange(N), epoch=0, purpose="train")
    assert p.stride == 2
    assert plan.start_frame.max() == 40 - (15 * 2 + 1)
    assert np.allclose(plan.start, plan.start_frame / 20)


def test_a_frame_rate_that_does_not_divide_the_stored_one_is_refused() -> None:
    assert frame_stride(stored_fps=29.97, clip_fps=29.97 / 3) == 3
    for clip_fps in (20.0, 4.0, 3.3):
        with pytest.raises(ConfigError, match=r"clip.fps=.* integer fraction"):
            frame_stride(stored_fps=10, clip_fps=clip_fps)


def test_a_clip_of_a_short_sample_starts_with_the_sample() -> None:
    plan = planner(dataset(frames=5)).train(np.arange(50), epoch=0, purpose="train")
    assert not plan.start_frame.any()
    assert not plan.audio_start.any()


def test_test_clips_are_evenly_spaced_centre_crops() -> None:
    p = planner(dataset(frames=101))
    plan = p.uniform(np.array([4, 2]), clips=3)
    last = 101 - 16
    assert plan.ids.tolist() == [4, 4, 4, 2, 2, 2]
    assert plan.start_frame.tolist() == [0, round(last / 2 + 0.1), last] * 2
    assert plan.window.tolist() == [[0, 24, 144, 144]] * 6
    assert not plan.flip.any()
    assert np.array_equal(plan.color, np.tile(np.eye(3, 4), (6, 1, 1)))
    assert p.uniform(np.array([4]), clips=1).start_frame.tolist() == [round(last / 2 + 0.1)]


def test_the_audio_window_is_centred_on_the_video() -> None:
    for seconds in (0.0, 1.0, 3.0):
        plan = planner(audio={"seconds": seconds}).train(np.arange(N), epoch=0, purpose="train")
        length = seconds or 1.6
        centre = plan.audio_start / 16000 + length / 2
        inside = (plan.start + 0.8 - length / 2 > 0) & (plan.start + 0.8 + length / 2 < 10)
        assert inside.sum() > N / 2
        assert np.abs(centre - (plan.start + 0.8))[inside].max() < 1e-4
        assert plan.audio_start.min() >= 0
        assert (plan.audio_start + round(16000 * length)).max() <= 160_000


def test_shuffled_pairs_take_another_samples_audio_at_a_random_time() -> None:
    plain = planner().train(np.arange(N), epoch=2, purpose="train")
    for enabled in (True, False):
        pairs = mismatched(augment={"enabled": enabled})
        shuffled = pairs.train(np.arange(N), epoch=2, purpose="train")
        assert np.array_equal(shuffled.audio_ids, pairs.partners(np.arange(N), 2))
        assert not np.any(shuffled.audio_ids == shuffled.ids)
        assert np.array_equal(shuffled.ids, plain.ids)
        assert np.array_equal(shuffled.start_frame, plain.start_frame)
        assert abs(np.corrcoef(shuffled.audio_start, plain.audio_start)[0, 1]) < 0.2
        assert shuffled.audio_start.min() < 0.05 * plain.audio_start.max()
        assert shuffled.audio_start.max() > 0.95 * plain.audio_start.max()
    assert np.array_equal(mismatched().uniform(np.arange(5), clips=1).audio_ids, np.arange(5))


def test_without_augmentation_a_clip_is_a_centre_crop_at_a_random_time() -> None:
    plan = planner(augment={"enabled": False}).train(np.arange(N), epoch=0, purpose="train")
    assert len(np.unique(plan.start_frame)) > 50
    assert np.array_equal(plan.window, centre_windows(np.full(N, 192), np.full(N, 144)))


def draw_windows(width: int, height: int, area: tuple[float, float], ratio: tuple[float, float]) -> np.ndarray:
    rng = np.random.default_rng(0)
    return random_resized_windows(
        np.full(N, width),
        np.full(N, height),
        area=rng.random((N, CROP_ATTEMPTS)),
        ratio=rng.random((N, CROP_ATTEMPTS)),
        place=rng.random((N, 2)),
        area_range=area,
        ratio_range=ratio,
    )


@pytest.mark.parametrize(
    ("width", "height", "area", "ratio"),
    [(192, 144, (0.3, 1.0), (0.75, 1.333)), (144, 256, (0.08, 1.0), (0.75, 1.333)), (60, 20, (0.9, 1.0), (0.5, 2.0))],
)
def test_crop_windows_follow_torchvisions_distribution(
    width: int, height: int, area: tuple[float, float], ratio: tuple[float, float]
) -> None:
    ours = draw_windows(width, height, area, ratio)
    top, left, h, w = ours.T
    assert np.all((top >= 0) & (left >= 0) & (h > 0) & (w > 0) & (top + h <= height) & (left + w <= width))
    torch.manual_seed(0)
    picture = torch.zeros(1, height, width)
    theirs = np.array([RandomResizedCrop.get_params(picture, list(area), list(ratio)) for _ in range(N)])
    for column in range(4):
        grid = np.unique(np.concatenate([ours[:, column], theirs[:, column]]))
        cumulated = [np.searchsorted(np.sort(x[:, column]), grid, side="right") / N for x in (ours, theirs)]
        distance = np.abs(cumulated[0] - cumulated[1]).max()
        assert distance < 1.95 * np.sqrt(2 / N)  # Kolmogorov-Smirnov at 0.1 %


def test_the_configured_fraction_of_clips_is_grey() -> None:
    plan = planner(augment={"gray": 0.2}).train(np.arange(N), epoch=0, purpose="train")
    gray = np.ptp(plan.color, axis=1).max(axis=1) < 1e-9
    assert abs(gray.mean() - 0.2) < 0.03
    assert abs(plan.flip.mean() - 0.5) < 0.04


def test_color_maps_do_what_is_documented() -> None:
    rng = np.random.default_rng(0)
    rgb = rng.random(3)
    one, zero = np.ones(1), np.zeros(1)

    def mapped(**changes: np.ndarray) -> np.ndarray:
        factors = {"brightness": one, "contrast": one, "saturation": one, "hue": zero} | changes
        color = color_matrices(**factors)[0]
        return color[:, :3] @ rgb + color[:, 3]

    luma = rgb @ [0.299, 0.587, 0.114]
    assert np.allclose(mapped(), rgb)
    assert np.allclose(mapped(brightness=np.array([1.3])), 1.3 * rgb)
    assert np.allclose(mapped(contrast=np.array([0.6])), 0.5 + 0.6 * (rgb - 0.5))
    assert np.allclose(mapped(saturation=np.array([0.7])), luma + 0.7 * (rgb - luma))
    turned = mapped(hue=np.array([90.0]))
    assert np.isclose(turned @ [0.299, 0.587, 0.114], luma, atol=1e-5)
    assert np.allclose(mapped(hue=np.array([360.0])), rgb)
    assert np.abs(turned - rgb).max() > 0.05


def test_augmentation_of_strength_zero_changes_no_colour() -> None:
    still = {"brightness": 0.0, "contrast": 0.0, "saturation": 0.0, "hue": 0.0, "gray": 0.0, "flip": 0.0}
    plan = planner(augment=still).train(np.arange(100), epoch=0, purpose="train")
    assert np.allclose(plan.color, np.eye(3, 4), atol=1e-12)
    assert not plan.flip.any()


def test_three_crops_lie_at_the_ends_and_the_middle_of_the_longer_side() -> None:
    plan = planner().uniform(np.arange(2), clips=2, crops=3)
    assert plan.ids.tolist() == [0] * 6 + [1] * 6
    assert plan.window[:6].tolist() == [[0, 0, 144, 144], [0, 24, 144, 144], [0, 48, 144, 144]] * 2
    assert plan.start_frame[:6].tolist() == np.repeat(planner().uniform([0], clips=2).start_frame, 3).tolist()
    upright = spread_windows(np.array([100]), np.array([160]), crops=3)
    assert upright.tolist() == [[[0, 0, 100, 100], [30, 0, 100, 100], [60, 0, 100, 100]]]


def test_audio_windows_of_samples_without_video_span_the_whole_sample() -> None:
    config = from_dict(Config, {"clip": {"frames": 40, "fps": 25}})
    table = SimpleNamespace(
        frames=np.zeros(N, int),
        width=np.zeros(N, int),
        height=np.zeros(N, int),
        audio_samples=np.full(N, 80_000),
    )
    audio_only = ClipPlanner(config=config, dataset=table, fps=10.0)
    plan = audio_only.uniform([3], clips=5)
    assert plan.audio_start.tolist() == [0, 13_600, 27_200, 40_800, 54_400]
    assert np.allclose(plan.start, plan.audio_start / 16000)
    starts = audio_only.train(np.arange(N), epoch=0, purpose="train").audio_start
    assert starts.min() < 1000
    assert 53_000 < starts.max() <= 54_400
    short = ClipPlanner(
        config=config, dataset=SimpleNamespace(**{**vars(table), "audio_samples": np.full(N, 9)}), fps=10.0
    )
    assert not short.uniform([0], clips=3).audio_start.any()


def test_the_clips_of_a_sample_are_drawn_independently() -> None:
    ids = np.arange(N)
    first, second, third = (planner().train(ids, epoch=0, purpose="train", number=np.full(N, k)) for k in range(3))
    assert same(first, planner().train(ids, epoch=0, purpose="train"))
    numbers = [plan.start_frame for plan in (first, second, third)] + [plan.window[:, 2] for plan in (first, second)]
    assert np.abs(np.corrcoef(numbers[:3]) - np.eye(3)).max() < 0.06
    assert np.abs(np.corrcoef(numbers[3:]) - np.eye(2)).max() < 0.06
    counts = np.bincount(second.start_frame)
    assert len(counts) == 85
    assert ((counts - N / 85) ** 2 / (N / 85)).sum() < 160  # 84 degrees of freedom: P(> 160) is about 1e-6
