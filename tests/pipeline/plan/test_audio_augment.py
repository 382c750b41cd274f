"""Plans of the audio augmentation follow their distributions, and change nothing else."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from pipeline.plan.audio_augment import AudioPlan, Partners, mask_ranges, waveforms
from pipeline.plan.clips import ClipPlan, ClipPlanner
from pipeline.plan.mismatched_pairs import MismatchedPairs
from pipeline.plan.selection import Selection
from settings import Config, ConfigError
from settings.load import from_dict

N = 4000
EVERYTHING = {
    "shift_seconds": 0.5,
    "mix": 0.4,
    "gain_db": 6.0,
    "time_masks": 2,
    "time_mask_frames": 30,
    "frequency_masks": 1,
    "frequency_mask_bands": 12,
}


def dataset(count: int = N, *, frames: int = 100) -> SimpleNamespace:
    return SimpleNamespace(
        frames=np.full(count, frames),
        width=np.full(count, 192),
        height=np.full(count, 144),
        audio_samples=np.full(count, frames * 1600),
        shard=np.arange(count) // 8,
    )


def planner(count: int = N, *, frames: int = 100, ids: np.ndarray | None = None, **sections: object) -> ClipPlanner:
    config, chosen = from_dict(Config, sections), None
    if ids is not None:
        chosen = Selection(count, lambda part: np.isin(np.arange(part.start, part.stop), ids))
    return ClipPlanner(config=config, dataset=dataset(count, frames=frames), fps=10.0, ids=chosen)


def augmented(epoch: int = 0, **settings: object) -> ClipPlan:
    return planner(audio_augment=settings or EVERYTHING).train(np.arange(N), epoch=epoch, purpose="train")


def is_uniform(values: np.ndarray, low: float, high: float) -> bool:
    """Whether values lie in the range and follow the uniform distribution, by the Kolmogorov-Smirnov statistic."""
    place = np.sort((values - low) / (high - low))
    steps = np.arange(len(place) + 1) / len(place)
    distance = max(np.abs(place - steps[1:]).max(), np.abs(place - steps[:-1]).max())
    # The probability of a larger distance is 2 exp(-2 n d^2), here 1e-6.
    return place.min() >= 0 and place.max() <= 1 and distance < np.sqrt(np.log(2e6) / 2 / len(place))


def test_without_audio_augmentation_a_plan_has_none():
    assert planner().train(np.arange(4), epoch=0, purpose="train").audio is None
    assert augmented(shift_seconds=1.0).audio is None
    assert planner(audio_augment=EVERYTHING).uniform(np.arange(4), clips=2).audio is None


def test_audio_augmentation_changes_no_other_random_number():
    plain = planner().train(np.arange(N), epoch=3, purpose="train")
    plan = augmented(epoch=3)
    for name in sorted(set(vars(plain)) - {"audio", "audio_start"}):
        assert np.array_equal(getattr(plan, name), getattr(plain, name)), name
    # Nor does one augmentation change the numbers of another.
    for name in ("mix", "gain_db"):
        alone = augmented(epoch=3, **{name: EVERYTHING[name]})
        assert np.array_equal(alone.audio_start, plain.audio_start)
        for value in (name for name, value in vars(alone.audio).items() if value is not None):
            assert np.array_equal(getattr(alone.audio, value), getattr(plan.audio, value)), value


def test_these_numbers_never_change():
    """A change of these numbers would silently change every resumed run."""
    plan = planner(audio_augment=EVERYTHING).train(np.array([0, 1, 2]), epoch=0, purpose="train")
    audio = plan.audio
    assert plan.audio_start.tolist() == [25650, 126723, 84907]
    assert audio.mixed_ids.tolist() == [804, 2739, 585]
    assert audio.mixed_start.tolist() == [56416, 79230, 116215]
    np.testing.assert_allclose(audio.mixed_share, [0.1670721164048258, 0.16483104975645904, 0.17044840530646385])
    np.testing.assert_allclose(audio.gain, [1.1072354612398825, 1.209223000630591, 0.5386417766030377])
    assert audio.time_masks.tolist() == [[[24, 43], [38, 52]], [[144, 155], [135, 140]], [[124, 139], [15, 16]]]
    assert audio.frequency_masks.tolist() == [[[67, 78]], [[66, 75]], [[36, 37]]]


def test_a_clips_augmentation_does_not_depend_on_its_batch():
    plans = planner(audio_augment=EVERYTHING)
    ids, number = np.array([7, 3, 999, 7]), np.array([0, 0, 2, 1])
    together = plans.train(ids, epoch=2, purpose="train", number=number)
    for row in range(4):
        part = slice(row, row + 1)
        alone = plans.train(ids[part], epoch=2, purpose="train", number=number[part])
        assert alone.audio_start == together.audio_start[row]
        for name, value in vars(together.audio).items():
            assert np.array_equal(getattr(alone.audio, name)[0], value[row]), name


def test_gains_are_uniform_in_decibels_and_shares_in_their_range():
    audio = augmented().audio
    assert is_uniform(20 * np.log10(audio.gain), -6, 6)
    assert is_uniform(audio.mixed_share, 0, 0.4)
    assert is_uniform(audio.mixed_start, 0, 160_000 - 25_600)
    numbers = [audio.gain, audio.mixed_share, audio.mixed_start, audio.mixed_ids, *audio.time_masks[:, :, 0].T]
    assert np.abs(np.corrcoef(numbers) - np.eye(6)).max() < 0.08


def test_the_audio_window_is_shifted_uniformly_and_stays_within_the_sample():
    plain = planner().train(np.arange(N), epoch=0, purpose="train")
    shift = augmented(shift_seconds=0.5).audio_start - plain.audio_start
    inside = (plain.audio_start >= 8000) & (plain.audio_start <= 160_000 - 25_600 - 8000)
    assert inside.sum() > N / 2
    assert is_uniform(shift[inside], -8000, 8000)
    # Near the ends of a sample only a part of the range is left, without a heap at its end.
    short = planner(frames=17, audio_augment={"shift_seconds": 5.0}).train(np.arange(N), epoch=0, purpose="train")
    assert is_uniform(short.audio_start, 0, 1600)


def test_audio_without_video_is_not_shifted():
    plans = planner(audio_augment={"shift_seconds": 0.5})
    plans.dataset.frames[:] = 0
    without = ClipPlanner(config=Config(), dataset=plans.dataset, fps=10.0)
    ones, others = (p.train(np.arange(9), epoch=0, purpose="train") for p in (plans, without))
    assert np.array_equal(ones.audio_start, others.audio_start)


def test_each_other_sample_is_equally_likely_to_be_mixed_in():
    ids = np.array([1, 2, 4, 5, 9])
    plans = planner(10, ids=ids, audio_augment={"mix": 0.4})
    counts = np.zeros((10, 10))
    for epoch in range(800):
        np.add.at(counts, (ids, plans.train(ids, epoch=epoch, purpose="train").audio.mixed_ids), 1)
    assert not counts.diagonal().any()
    assert counts[:, np.setdiff1d(np.arange(10), ids)].sum() == 0
    others = counts[ids][:, ids][~np.eye(5, dtype=bool)]
    assert ((others - 200) ** 2 / 200).sum() < 55  # 15 degrees of freedom: P(> 55) is about 2e-6


def test_with_shards_in_order_partners_come_from_the_same_shard():
    plans = planner(33, data={"order": "shards"}, audio_augment={"mix": 0.4})
    ids, seen = np.arange(33), set()
    for epoch in range(30):
        mixed = plans.train(ids, epoch=epoch, purpose="train").audio.mixed_ids
        assert np.array_equal(mixed[:32] // 8, ids[:32] // 8)
        assert not (mixed == ids).any()
        seen.add(int(mixed[32]))  # alone in its shard
    assert len(seen) > 10


def test_a_lone_sample_is_its_own_partner():
    only = Selection(5, lambda part: np.arange(5) == 3)
    for group in (None, np.zeros(5, dtype=int)):
        assert Partners(only, group).draw(np.array([3]), np.array([0.5])).tolist() == [3]


def test_shuffled_pairs_never_mix_in_the_true_audio():
    config = from_dict(Config, {"audio_augment": EVERYTHING})
    pairs = MismatchedPairs(config=config, dataset=dataset(4), fps=10.0, ids=Selection(4))
    plain = MismatchedPairs(config=Config(), dataset=dataset(4), fps=10.0, ids=Selection(4))
    for epoch in range(20):
        plan = pairs.train(np.arange(4), epoch=epoch, purpose="train")
        assert not (plan.audio.mixed_ids == plan.ids).any()
        # Their audio is at a random time already, so that it is not shifted.
        assert np.array_equal(plan.audio_start, plain.train(np.arange(4), epoch=epoch, purpose="train").audio_start)


def test_masks_follow_the_distribution_of_specaugment():
    widest, size, n = 7, 20, 200_000
    rng = np.random.default_rng(0)
    first, end = mask_ranges(rng.random((n, 2)), widest=widest, size=size)[:, 0].T
    assert first.min() == 0
    assert end.max() == size
    # Park et al. 2019: the width is uniform in [0, W], then the first position in [0, size - width].
    expected = np.zeros((size + 1, widest + 1))
    for width in range(widest + 1):
        expected[: size - width + 1, width] = n / (widest + 1) / (size - width + 1)
    found = np.zeros_like(expected)
    np.add.at(found, (first, end - first), 1)
    possible = expected > 0
    assert not found[~possible].any()
    chi_square = ((found - expected)[possible] ** 2 / expected[possible]).sum()
    freedom = possible.sum() - 1
    assert chi_square < freedom + 5 * np.sqrt(2 * freedom)


def test_masks_may_be_as_wide_as_the_spectrogram():
    masks = mask_ranges(np.full((1, 2), 1 - 1e-12), widest=5, size=5)
    assert masks.tolist() == [[[0, 5]]]


def test_waveforms_are_mixed_and_amplified_exactly():
    rng = np.random.default_rng(0)
    store = rng.integers(-32768, 32768, (3, 100)).astype(np.int16)

    def read(ids: np.ndarray, start: np.ndarray) -> np.ndarray:
        return np.stack([store[i, s : s + 50] for i, s in zip(ids, start, strict=True)])

    own = np.array([0, 1]), np.array([3, 5])
    plain = read(*own)
    for plan in (None, AudioPlan(time_masks=np.zeros((2, 1, 2), dtype=int))):
        assert np.array_equal(waveforms(plan, own, read), plain)
        assert waveforms(plan, own, read).dtype == np.int16
    gain, share = np.array([2.0, 0.5]), np.array([0.25, 0.4])
    mixing = AudioPlan(mixed_ids=np.array([2, 0]), mixed_start=np.array([0, 50]), mixed_share=share)
    mixed = (1 - share)[:, None] * plain + share[:, None] * read(mixing.mixed_ids, mixing.mixed_start)
    for plan, expected in (
        (AudioPlan(gain=gain), gain[:, None] * plain),
        (mixing, mixed),
        (replace(mixing, gain=gain), gain[:, None] * mixed),
    ):
        found = waveforms(plan, own, read)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=0.01)  # louder than full scale, but not clipped


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"mix": 0.6}, r"audio_augment.mix must be in \[0, 0.5\], not 0.6"),
        ({"gain_db": -1.0}, r"audio_augment.gain_db must be in \[0, 60\], not -1.0"),
        ({"shift_seconds": -1.0}, r"audio_augment.shift_seconds must be in \[0, 3600\]"),
        ({"time_masks": 101}, r"audio_augment.time_masks must be in \[0, 100\], not 101"),
        ({"time_masks": 1, "time_mask_frames": 162}, "time_mask_frames=162 must not exceed the 161 frames"),
        (
            {"frequency_masks": 1, "frequency_mask_bands": 81},
            r"frequency_mask_bands=81 must not exceed audio.n_mels=80",
        ),
        ({"frequency_mask_bands": 0}, "audio_augment.frequency_mask_bands must be at least 1, not 0"),
    ],
)
def test_settings_out_of_range_are_refused(section, message):
    with pytest.raises(ConfigError, match=message):
        from_dict(Config, {"audio_augment": section})
