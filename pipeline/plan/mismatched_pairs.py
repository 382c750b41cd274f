"""The control experiment data.shuffle_pairs: each video is paired with the audio of another sample.

This is a planner and not a view of the data set, because the pairing changes with each epoch and a data set has no
epochs: to read from a view, a reader would have to know the epoch of every clip. A plan names the sample that each
clip's audio comes from, and readers follow it.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import numpy as np

from common.randomness import numpy_generator
from pipeline.plan.clips import ClipPlan, ClipPlanner, ClipSource, draw_keys
from settings import Config
from settings.errors import ConfigError


class MismatchedPairs(ClipPlanner):
    """Plans training clips with another sample's audio, from a random time; test clips keep their own audio.

    Args:
        config, dataset, fps: as for ClipPlanner.
        ids: int64 [n], distinct samples, whose audio is exchanged among them.

    Raises:
        ConfigError: as for ClipPlanner.
    """

    def __init__(self, *, config: Config, dataset: ClipSource, fps: float, ids: np.ndarray) -> None:
        super().__init__(config=config, dataset=dataset, fps=fps, ids=ids)
        self._ids = ids
        self.partners = lru_cache(maxsize=2)(self._partners)

    def _partners(self, epoch: int) -> np.ndarray:
        """Returns, for each sample, the sample whose audio it gets in an epoch, int64 [samples].

        Samples outside `ids` keep their own audio.

        Raises:
            ConfigError: there are fewer than two ids.
        """
        partners = np.arange(len(self.dataset.frames))
        partners[self._ids] = derangement(self._ids, seed=self.config.seed, epoch=epoch)
        return partners

    def train(self, ids: np.ndarray, *, epoch: int, purpose: str, number: np.ndarray | None = None) -> ClipPlan:
        plan = super().train(ids, epoch=epoch, purpose=purpose, number=number)
        audio_ids = self.partners(epoch)[plan.ids]
        place = self._draws(draw_keys(plan.ids, plan.number), epoch=epoch, purpose=purpose)["audio"]
        audio_start = self._random_audio_starts(audio_ids, place)
        has_video = self.dataset.frames[plan.ids] > 0
        start = np.where(has_video, plan.start, audio_start / self.config.audio.sample_rate)
        # A sample outside `ids` keeps its own audio, aligned with its frames.
        audio_start = np.where(has_video & (audio_ids == plan.ids), plan.audio_start, audio_start)
        return replace(plan, audio_ids=audio_ids, audio_start=audio_start, start=start)


def derangement(ids: np.ndarray, *, seed: int, epoch: int) -> np.ndarray:
    """Returns mismatched pairs: for each of `ids`, a different one of them, int64 [n].

    The assignment is one random cycle, so no id is assigned to itself and each is used once.

    Raises:
        ConfigError: there are fewer than two ids, so no such assignment exists.
    """
    if len(ids) < 2:
        raise ConfigError(f"data.shuffle_pairs needs at least two samples, but the data set has {len(ids)}")
    cycle = numpy_generator(seed, epoch, "shuffle_pairs").permutation(len(ids))
    partner = np.empty_like(ids)
    partner[cycle] = ids[np.roll(cycle, -1)]
    return partner
