"""The control experiment data.shuffle_pairs: each video is paired with the audio of another sample.

This is a planner and not a view of the data set, because the pairing changes with each epoch and a data set has no
epochs: to read from a view, a reader would have to know the epoch of every clip. A plan names the sample that each
clip's audio comes from, and readers follow it.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from common.randomness import random_key
from pipeline.plan.clips import ClipPlan, ClipPlanner, ClipSource, draw_keys
from pipeline.plan.permutation import permuted, positions_of
from pipeline.plan.selection import Selection
from settings import Config
from settings.errors import ConfigError


class MismatchedPairs(ClipPlanner):
    """Plans training clips with another sample's audio, from a random time; test clips keep their own audio.

    Args:
        config, dataset, fps, first_id: as for ClipPlanner.
        ids: the samples whose audio is exchanged among them.

    Raises:
        ConfigError: as for ClipPlanner.
    """

    def __init__(self, *, config: Config, dataset: ClipSource, fps: float, ids: Selection, first_id: int = 0) -> None:
        super().__init__(config=config, dataset=dataset, fps=fps, ids=ids, first_id=first_id)
        self._ids = ids

    def partners(self, ids: np.ndarray, epoch: int) -> np.ndarray:
        """Returns, for each of `ids`, the sample whose audio it gets in an epoch, int64 [B].

        Samples that do not exchange their audio keep it.

        Raises:
            ConfigError: fewer than two samples exchange their audio.
        """
        places, partners = self._ids.places(ids), ids.copy()
        found = derangement(places[places >= 0], len(self._ids), seed=self.config.seed, epoch=epoch)
        partners[places >= 0] = self._ids[found]
        return partners

    def train(self, ids: np.ndarray, *, epoch: int, purpose: str, number: np.ndarray | None = None) -> ClipPlan:
        plan = super().train(ids, epoch=epoch, purpose=purpose, number=number)
        audio_ids = self.partners(plan.ids, epoch)
        place = self._draws(draw_keys(plan.ids + self.first_id, plan.number), epoch=epoch, purpose=purpose)["audio"]
        audio_start = self._random_audio_starts(audio_ids, place)
        has_video = self.dataset.frames[plan.ids] > 0
        start = np.where(has_video, plan.start, audio_start / self.config.audio.sample_rate)
        # A sample outside `ids` keeps its own audio, aligned with its frames.
        audio_start = np.where(has_video & (audio_ids == plan.ids), plan.audio_start, audio_start)
        return replace(plan, audio_ids=audio_ids, audio_start=audio_start, start=start)


def derangement(places: np.ndarray, n: int, *, seed: int, epoch: int) -> np.ndarray:
    """Returns mismatched pairs: for each of `places` in range(n), int64 [B], a different one.

    The assignment of all n is one random cycle, so no place is assigned to itself and each is used once.

    Raises:
        ConfigError: n is less than two, so no such assignment exists.
    """
    if n < 2:
        raise ConfigError(f"data.shuffle_pairs needs at least two samples, but the data set has {n}")
    key = random_key(seed, epoch, "shuffle_pairs")
    return permuted((positions_of(places, n, key) + 1) % n, n, key)
