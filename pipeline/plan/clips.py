"""Turns sample ids into clip plans: start, crop, flip and colours of each clip.

Every random number is a pure function of (seed, epoch, purpose, sample id) and of the clip's number among those of its
sample, drawn for a batch at a time in NumPy and passed to the decoder as data. So a clip depends neither on its batch
nor on the process nor on the loader.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol

import numpy as np

from common.normalisation import VIDEO_MEAN, VIDEO_STD
from common.randomness import uniforms
from pipeline.plan.audio_augment import AudioPlan, Draws, Partners, plan_audio, shifted_starts
from pipeline.plan.augment import (
    CROP_ATTEMPTS,
    centre_windows,
    color_matrices,
    random_resized_windows,
    spread_windows,
)
from pipeline.plan.rows import Rows
from pipeline.plan.selection import Selection, parts
from settings import Config
from settings.errors import ConfigError

_DRAWS = {
    "start": 1,
    "area": CROP_ATTEMPTS,
    "ratio": CROP_ATTEMPTS,
    "place": 2,
    "flip": 1,
    "brightness": 1,
    "contrast": 1,
    "saturation": 1,
    "hue": 1,
    "gray": 1,
    "audio": 1,
}
"""Number of uniform random numbers that a training clip uses for each purpose. Reordering the entries would change the
results of all runs."""
_FURTHER_CLIP = 2**40
"""Distance, in ids, between the random numbers of a sample's clips; larger than any id."""


class ClipSource(Protocol):
    """The properties of a data set of n samples that planning needs."""

    frames: np.ndarray
    """int [n], number of frames of each sample, at the frame rate that the planner is given; 0 without video."""
    width: np.ndarray
    """int [n], frame width in pixels."""
    height: np.ndarray
    """int [n], frame height in pixels."""
    audio_samples: np.ndarray
    """int [n], number of PCM samples of each sample; 0 without audio."""
    shard: np.ndarray
    """int [n], the shard of each sample (for data.order: shards)."""


@dataclass(frozen=True)
class ClipPlan(Rows):
    """B clips as arrays; row b of each array describes clip b."""

    ids: np.ndarray
    """int64 [B], samples that the video comes from."""
    audio_ids: np.ndarray
    """int64 [B], samples that the audio comes from: equal to `ids` unless pairs are mismatched."""
    start_frame: np.ndarray
    """int64 [B], index of the first stored frame."""
    start: np.ndarray
    """float64 [B], time of the first frame (without video: of the audio), in seconds from the sample's start."""
    audio_start: np.ndarray
    """int64 [B], index of the first PCM sample of the audio window."""
    window: np.ndarray
    """int64 [B, 4], crop as (top, left, height, width) in pixels of the stored frame."""
    flip: np.ndarray
    """bool [B], whether the clip is mirrored horizontally."""
    color: np.ndarray
    """float64 [B, 3, 4], affine map of RGB in [0, 1]: rgb -> color[:, :, :3] @ rgb + color[:, :, 3]."""
    number: np.ndarray
    """int64 [B], number of the clip among those of its sample in the step, from 0 (see clip.per_sample)."""
    epoch: np.ndarray
    """int64 [B], the epoch that selected the random numbers; 0 for test clips, which have none."""
    audio: AudioPlan | None = None
    """The audio augmentation; None if waveforms and spectrograms stay unchanged."""

    def __len__(self) -> int:
        return len(self.ids)


def draw_keys(ids: np.ndarray, number: np.ndarray) -> np.ndarray:
    """What the random numbers of clips are drawn for, int64 [B]: the sample, for its first clip, else another number.

    Args:
        ids, number: int64 [B], as in `ClipPlan`.
    """
    return ids + number * _FURTHER_CLIP


def color_maps(plan: ClipPlan) -> tuple[np.ndarray, np.ndarray]:
    """Colour and normalisation as one affine map of uint8 RGB: float32 matrix [B, 3, 3] and offset [B, 3]."""
    mean, std = np.array(VIDEO_MEAN), np.array(VIDEO_STD)
    matrix = plan.color[:, :, :3] / (255 * std[:, None])
    return matrix.astype(np.float32), ((plan.color[:, :, 3] - mean) / std).astype(np.float32)


class ClipPlanner:
    """Plans clips of a data set.

    Args:
        config: clip, audio, augment, audio_augment, data.order and seed are read.
        dataset: frame counts, frame sizes and audio lengths of the samples.
        fps: frame rate at which `dataset.frames` counts frames, in frames per second.
        ids: samples whose audio may be mixed into that of others; None means all.
        first_id: what is added to an id before random numbers are drawn for it: the id that sample 0 has in a mix.

    Raises:
        ConfigError: there is video, but fps is not an integer multiple of clip.fps.
    """

    def __init__(
        self, *, config: Config, dataset: ClipSource, fps: float, ids: Selection | None = None, first_id: int = 0
    ) -> None:
        self.config = config
        self.first_id = first_id
        self.dataset = dataset
        self.fps = fps
        # Without video there is no frame rate that clip.fps must divide.
        has_video = any(bool((dataset.frames[part] > 0).any()) for part in parts(len(dataset.frames)))
        self.stride = frame_stride(stored_fps=fps, clip_fps=config.clip.fps) if has_video else 1
        self._mixable = Selection(len(dataset.frames)) if ids is None else ids

    @property
    def span(self) -> int:
        """Number of stored frames from a clip's first to its last, inclusive."""
        return (self.config.clip.frames - 1) * self.stride + 1

    def train(self, ids: np.ndarray, *, epoch: int, purpose: str, number: np.ndarray | None = None) -> ClipPlan:
        """Plans one random clip per id, augmented as config.augment and config.audio_augment say.

        Args:
            ids: int64 [B].
            epoch, purpose: select the random numbers of the clips.
            number: int64 [B], number of each clip among those of its sample; None means 0.
        """
        ids = np.asarray(ids, dtype=np.int64)
        number = np.zeros_like(ids) if number is None else number
        keys = draw_keys(ids + self.first_id, number)
        plan = self._train_video(ids, self._draws(keys, epoch=epoch, purpose=purpose))
        plan = replace(plan, number=number, epoch=np.full_like(ids, epoch))
        if self.config.audio_augment.enabled:
            plan = self._augment_audio(plan, keys, epoch=epoch, purpose=purpose)
        return plan

    def train_at(self, ids: np.ndarray, *, epochs: np.ndarray, purpose: str, number: np.ndarray) -> ClipPlan:
        """Like `train`, with an epoch for each id: int64 [B]."""
        groups = [(one, np.flatnonzero(epochs == one)) for one in np.unique(epochs).tolist()]
        parts = [self.train(ids[rows], epoch=one, purpose=purpose, number=number[rows]) for one, rows in groups]
        return parts[0] if len(parts) == 1 else ClipPlan.joined(parts, [rows for _, rows in groups])

    def _train_video(self, ids: np.ndarray, draws: dict[str, np.ndarray]) -> ClipPlan:
        """Plans clips whose audio is not augmented."""
        start_frame = (draws["start"] * self._starts(ids)).astype(np.int64)
        starts = {"start_frame": start_frame, "start_sample": self._random_audio_starts(ids, draws["start"])}
        augment = self.config.augment
        if not augment.enabled:
            return self._plan(ids, centre_windows(*self._frame_size(ids)), **starts)
        window = random_resized_windows(
            *self._frame_size(ids),
            area=draws["area"],
            ratio=draws["ratio"],
            place=draws["place"],
            area_range=augment.crop_area,
            ratio_range=augment.crop_ratio,
        )
        color = color_matrices(
            brightness=1 + augment.brightness * (2 * draws["brightness"] - 1),
            contrast=1 + augment.contrast * (2 * draws["contrast"] - 1),
            saturation=(draws["gray"] >= augment.gray) * (1 + augment.saturation * (2 * draws["saturation"] - 1)),
            hue=augment.hue * (2 * draws["hue"] - 1),
        )
        flip = draws["flip"] < augment.flip
        return self._plan(ids, window, flip=flip, color=color, **starts)

    def _augment_audio(self, plan: ClipPlan, keys: np.ndarray, *, epoch: int, purpose: str) -> ClipPlan:
        config, ids = self.config, plan.ids
        draws = Draws(keys=keys, seed=config.seed, epoch=epoch, purpose=purpose)
        partners = self._mixing_partners if config.audio_augment.mix else None
        audio = plan_audio(config, ids, draws, partners=partners, last_start=self._last_audio_start)
        furthest = round(config.audio_augment.shift_seconds * config.audio.sample_rate)
        if furthest:
            last = self._last_audio_start(ids)
            shifted = shifted_starts(plan.audio_start, draws, last_start=last, furthest=furthest)
            # Without video there is nothing to shift the audio against: its place is random already.
            plan = replace(plan, audio_start=np.where(self.dataset.frames[ids] > 0, shifted, plan.audio_start))
        return replace(plan, audio=audio)

    @cached_property
    def _mixing_partners(self) -> Partners:
        # With data.order=shards a partner must lie near the sample, because reading elsewhere is slow.
        return Partners(self._mixable, self.dataset.shard if self.config.data.order == "shards" else None)

    def uniform(self, ids: np.ndarray, *, clips: int, crops: int = 1) -> ClipPlan:
        """Plans test clips: `clips` evenly spaced starts per id, each with `crops` square crops.

        The first clip starts where the sample starts and the last ends where it ends; a single clip is centred. The
        squares are spread over the frame's longer side in the same way. The plan is ordered by id, then start, then
        crop. Each start has its own audio window.
        """
        ids = np.asarray(ids, dtype=np.int64)
        place = (np.linspace(0, 1, clips) if clips > 1 else np.array([0.5])).repeat(crops)
        start_frame = np.floor(place * (self._starts(ids) - 1)[:, None] + 0.5).astype(np.int64).reshape(-1)
        start_sample = np.floor(place * self._last_audio_start(ids)[:, None] + 0.5).astype(np.int64).reshape(-1)
        window = spread_windows(*self._frame_size(ids), crops=crops)
        window = np.tile(window, (1, clips, 1)).reshape(-1, 4)
        ids = ids.repeat(clips * crops)
        return self._plan(ids, window, start_frame=start_frame, start_sample=start_sample)

    def windows(self, ids: np.ndarray, begin: np.ndarray, end: np.ndarray, *, clips: int) -> ClipPlan:
        """Plans test clips within time windows: `clips` evenly spaced starts per window, with the centre crop.

        As in `uniform`, the first clip of a window starts where the window starts and the last ends where it ends, and
        a single clip is centred. In a window that is shorter than a clip all clips are centred, and shifted to lie
        within the sample. The plan is ordered by row, then start.

        Args:
            ids: int64 [n], the sample of each window; it may occur several times.
            begin, end: float64 [n], the window in seconds from the sample's start.
        """
        ids = np.asarray(ids, dtype=np.int64)
        place = np.linspace(0, 1, clips) if clips > 1 else np.array([0.5])
        start_frame = _spread(place, begin, end, rate=self.fps, span=self.span, last=self._starts(ids) - 1)
        audio = self.config.audio
        start_sample = _spread(
            place,
            begin,
            end,
            rate=audio.sample_rate,
            span=self.config.audio_samples,
            last=self._last_audio_start(ids),
        )
        window = centre_windows(*self._frame_size(ids)).repeat(clips, axis=0)
        return self._plan(ids.repeat(clips), window, start_frame=start_frame, start_sample=start_sample)

    def _draws(self, ids: np.ndarray, *, epoch: int, purpose: str) -> dict[str, np.ndarray]:
        numbers = uniforms(ids, sum(_DRAWS.values()), seed=self.config.seed, epoch=epoch, purpose=purpose)
        columns = np.split(numbers, np.cumsum(list(_DRAWS.values()))[:-1], axis=1)
        return {name: c[:, 0] if c.shape[1] == 1 else c for name, c in zip(_DRAWS, columns, strict=True)}

    def _plan(self, ids, window, *, start_frame, start_sample, flip=None, color=None) -> ClipPlan:
        """Builds a plan from start positions and augmentations.

        Audio is centred on the video clip; only for samples without video, `start_sample` is its first PCM sample.
        """
        n = len(ids)
        has_video = self.dataset.frames[ids] > 0
        start = np.where(has_video, start_frame / self.fps, start_sample / self.config.audio.sample_rate)
        return ClipPlan(
            ids=ids,
            audio_ids=ids,
            start_frame=start_frame,
            start=start,
            audio_start=np.where(has_video, self._audio_starts(ids, start), start_sample),
            window=window,
            flip=np.zeros(n, dtype=bool) if flip is None else flip,
            color=np.tile(np.eye(3, 4), (n, 1, 1)) if color is None else color,
            number=np.zeros(n, dtype=np.int64),
            epoch=np.zeros(n, dtype=np.int64),
        )

    def _starts(self, ids: np.ndarray) -> np.ndarray:
        """Number of frames at which a clip can start, int64 [B]; 1 where the sample is shorter than a clip."""
        return np.maximum(self.dataset.frames[ids].astype(np.int64) - self.span + 1, 1)

    def _frame_size(self, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return self.dataset.width[ids].astype(np.int64), self.dataset.height[ids].astype(np.int64)

    def _audio_starts(self, ids: np.ndarray, start: np.ndarray) -> np.ndarray:
        """First PCM sample of windows centred on the clip's video, shifted to lie within the sample; int64 [B]."""
        config = self.config
        earliest = start + (config.clip.seconds - config.audio_seconds) / 2
        wanted = np.floor(earliest * config.audio.sample_rate + 0.5).astype(np.int64)
        return np.clip(wanted, 0, self._last_audio_start(ids))

    def _random_audio_starts(self, audio_ids: np.ndarray, place: np.ndarray) -> np.ndarray:
        """First PCM sample of random windows, int64 [B], from uniform numbers `place` [B] in [0, 1)."""
        return (place * (self._last_audio_start(audio_ids) + 1)).astype(np.int64)

    def _last_audio_start(self, audio_ids: np.ndarray) -> np.ndarray:
        """Last PCM sample at which a complete window starts, int64 [B]; 0 if the audio is shorter than a window."""
        return np.maximum(self.dataset.audio_samples[audio_ids].astype(np.int64) - self.config.audio_samples, 0)


def _spread(
    place: np.ndarray, begin: np.ndarray, end: np.ndarray, *, rate: float, span: int, last: np.ndarray
) -> np.ndarray:
    """Starts of evenly spaced clips within windows, in units of 1 / rate seconds; int64 [n * clips].

    Args:
        place: float64 [clips], where each clip lies in its window, from 0 to 1.
        begin, end: float64 [n], the windows in seconds.
        span: length of a clip.
        last: int64 [n], the last start at which a clip lies within the sample.
    """
    first, stop = np.round(begin * rate), np.round(end * rate)
    room = np.maximum(stop - first - span, 0)
    # Where a clip is longer than the window, it is centred on it.
    first = first - np.maximum(span - (stop - first), 0) / 2
    starts = np.floor(first[:, None] + place * room[:, None] + 0.5).astype(np.int64)
    return np.clip(starts, 0, last[:, None]).reshape(-1)


def frame_stride(*, stored_fps: float, clip_fps: float) -> int:
    """Number of stored frames from one frame of a clip to the next.

    Raises:
        ConfigError: the stored frame rate is not an integer multiple of the clip's.
    """
    stride = round(stored_fps / clip_fps)
    if stride < 1 or abs(stride * clip_fps - stored_fps) > 1e-6 * stored_fps:
        raise ConfigError(
            f"clip.fps={clip_fps:g} must be the stored frame rate {stored_fps:g} or an integer fraction of it: "
            "change clip.fps, or prepare the data again with another storage.fps"
        )
    return stride
