"""Plans the audio augmentation of clips, and carries out the part of it that changes waveforms; needs NumPy only.

Waveforms are changed in NumPy for all loaders, before the spectrogram, because a gain and a mixture of two sounds are
exact only there: the spectrogram's floor hides what lies below it. Masks are applied to finished spectrograms on their
device, by `Batch.of_plan`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from common.randomness import uniforms
from pipeline.plan.rows import Rows
from pipeline.plan.selection import Selection
from settings import AudioAugmentConfig, Config


@dataclass(frozen=True)
class AudioPlan(Rows):
    """The audio augmentation of B clips; None where an augmentation is off."""

    gain: np.ndarray | None = None
    """float64 [B], factor of the amplitude."""
    mixed_ids: np.ndarray | None = None
    """int64 [B], samples whose audio is mixed into that of the clips."""
    mixed_start: np.ndarray | None = None
    """int64 [B], index of the first PCM sample of the window that is mixed in."""
    mixed_share: np.ndarray | None = None
    """float64 [B], share of the window that is mixed in."""
    time_masks: np.ndarray | None = None
    """int64 [B, masks, 2], the first masked frame of the spectrogram and the one after the last."""
    frequency_masks: np.ndarray | None = None
    """int64 [B, masks, 2], the first masked mel band and the one after the last."""


class Partners:
    """Draws the samples whose audio is mixed into that of others: a function of the sample and a random number only.

    Partners come from the whole data set and not from the batch. In a random batch both have the same distribution, but
    this way a clip's audio does not depend on what else is in its batch, and any rank and any resumed run can read it.

    Args:
        ids: the n samples to draw from.
        group: int [samples of the data set]; a partner is of the same group unless that has no other sample. None
            means that all are of one group.
    """

    def __init__(self, ids: Selection, group: np.ndarray | None) -> None:
        self._ids: Selection | np.ndarray = ids
        self._group = group
        if group is not None:
            members = np.asarray(ids)
            order = np.argsort(group[members], kind="stable")
            self._ids, self._sorted = members[order], group[members][order]

    def draw(self, ids: np.ndarray, number: np.ndarray) -> np.ndarray:
        """Returns a partner for each of `ids`, int64 [B], given uniform numbers in [0, 1), [B].

        A sample is its own partner only if there is no other.
        """
        if self._group is None:
            first, end = np.zeros(len(ids), dtype=np.int64), np.full(len(ids), len(self._ids))
        else:
            first, end = (np.searchsorted(self._sorted, self._group[ids], side) for side in ("left", "right"))
        alone = end - first < 2
        first, end = np.where(alone, 0, first), np.where(alone, len(self._ids), end)
        # Of the others each is as likely: the last one stands in where a sample would be drawn for itself.
        drawn = self._ids[first + (number * np.maximum(end - first - 1, 1)).astype(np.int64)]
        return np.where(drawn == ids, self._ids[end - 1], drawn)


@dataclass(frozen=True, kw_only=True)
class Draws:
    """The random numbers of the audio augmentation of B clips.

    Attributes:
        keys: int64 [B], what the numbers of each clip are drawn for.
        seed, epoch, purpose: select the numbers; each augmentation has a purpose of its own, so that none of them
            changes the numbers of another or those of the video.
    """

    keys: np.ndarray
    seed: int
    epoch: int
    purpose: str

    def __call__(self, what: str, count: int) -> np.ndarray:
        """Draws uniform numbers in [0, 1), float64 [B, count], for the augmentation `what`."""
        return uniforms(self.keys, count, seed=self.seed, epoch=self.epoch, purpose=f"{self.purpose}/audio {what}")


def plan_audio(
    config: Config,
    ids: np.ndarray,
    draw: Draws,
    *,
    partners: Partners | None,
    last_start: Callable[[np.ndarray], np.ndarray],
) -> AudioPlan | None:
    """Plans the audio augmentation of clips; None if waveforms and spectrograms stay unchanged.

    Args:
        ids: int64 [B], the samples of the clips.
        partners: draws the samples that are mixed in; needed if audio_augment.mix is on.
        last_start: returns the last PCM sample at which a window of each sample may start, int64 [B].
    """
    augment = config.audio_augment
    plan: dict[str, np.ndarray] = {}
    if augment.mix:
        assert partners is not None
        partner, place, share = draw("mix", 3).T
        plan["mixed_ids"] = partners.draw(ids, partner)
        plan["mixed_start"] = (place * (last_start(plan["mixed_ids"]) + 1)).astype(np.int64)
        plan["mixed_share"] = augment.mix * share
    if augment.gain_db:
        plan["gain"] = 10 ** (augment.gain_db * (2 * draw("gain", 1)[:, 0] - 1) / 20)
    for name, (count, widest, size) in _masks(augment, frames=config.audio_frames, bands=config.audio.n_mels).items():
        if count:
            plan[name] = mask_ranges(draw(name, 2 * count), widest=widest, size=size)
    return AudioPlan(**plan) if plan else None


def shifted_starts(start: np.ndarray, draw: Draws, *, last_start: np.ndarray, furthest: int) -> np.ndarray:
    """Draws starts of audio windows around given ones, uniformly from those that lie within the sample; int64 [B].

    Args:
        start: int64 [B], PCM samples.
        last_start: int64 [B], the last PCM sample at which a window may start.
        furthest: largest distance from `start`, in PCM samples.
    """
    low, high = np.maximum(start - furthest, 0), np.minimum(start + furthest, last_start)
    return low + (draw("shift", 1)[:, 0] * (high - low + 1)).astype(np.int64)


def mask_ranges(numbers: np.ndarray, *, widest: int, size: int) -> np.ndarray:
    """Computes masks as in SpecAugment (Park et al. 2019): first the width, 0 to `widest`, then the place.

    Args:
        numbers: uniform numbers in [0, 1), [B, 2 * masks].
        widest: largest width, at most `size`.
        size: number of frames or bands of the spectrogram.

    Returns:
        int64 [B, masks, 2]: first masked position, and the one after the last.
    """
    width, place = np.split(numbers, 2, axis=1)
    width = (width * (widest + 1)).astype(np.int64)
    first = (place * (size - width + 1)).astype(np.int64)
    return np.stack([first, first + width], axis=2)


def waveforms(
    plan: AudioPlan | None, own: tuple[np.ndarray, np.ndarray], read: Callable[[np.ndarray, np.ndarray], np.ndarray]
) -> np.ndarray:
    """Reads the audio windows of clips; mixes and amplifies them as planned.

    Args:
        plan: the audio augmentation.
        own: the clips' audio windows, as (samples, starts).
        read: returns int16 [B, samples per window] for int64 [B] samples and starts.

    Returns:
        [B, samples per window]: int16 as read, or float32 of the same scale if the plan changes waveforms.
    """
    pcm = read(*own)
    if plan is None or (plan.gain is None and plan.mixed_share is None):
        return pcm
    gain = np.ones(len(pcm)) if plan.gain is None else plan.gain
    if plan.mixed_share is None:
        return gain.astype(np.float32)[:, None] * pcm
    assert plan.mixed_ids is not None
    assert plan.mixed_start is not None
    mixed = (gain * (1 - plan.mixed_share)).astype(np.float32)[:, None] * pcm
    mixed += (gain * plan.mixed_share).astype(np.float32)[:, None] * read(plan.mixed_ids, plan.mixed_start)
    return mixed


def _masks(augment: AudioAugmentConfig, *, frames: int, bands: int) -> dict[str, tuple[int, int, int]]:
    """For each kind of mask, their number and largest width, and the size of the axis."""
    return {
        "time_masks": (augment.time_masks, augment.time_mask_frames, frames),
        "frequency_masks": (augment.frequency_masks, augment.frequency_mask_bands, bands),
    }
