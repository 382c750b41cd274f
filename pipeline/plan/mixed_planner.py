"""Plans clips of a mix: those of each data set as if it were alone, except that their ids are those of the mix."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from pipeline.plan.clips import ClipPlan, ClipPlanner

PlanRows = Callable[[ClipPlanner, np.ndarray, np.ndarray], ClipPlan]
"""Plans clips of one data set; gets its planner, ids within that data set, int64 [n], and the rows of the batch that
have these ids, int64 [n]."""


class MixedPlanner(ClipPlanner):
    """A planner whose data sets may have different frame rates.

    Args:
        planners: the planner of each data set, made with its `first_id`.
        firsts: int64 [sets], the id of the first sample of each data set.

    Attributes:
        strides: stored frames from one frame of a clip to the next, of each data set.
    """

    def __init__(self, planners: Sequence[ClipPlanner], firsts: np.ndarray) -> None:
        self.config = planners[0].config
        self._planners, self._firsts = planners, firsts
        self.strides = [planner.stride for planner in planners]

    def train(self, ids: np.ndarray, *, epoch: int, purpose: str, number: np.ndarray | None = None) -> ClipPlan:
        number = np.zeros(len(ids), dtype=np.int64) if number is None else number

        def plan(planner: ClipPlanner, local_ids: np.ndarray, rows: np.ndarray) -> ClipPlan:
            return planner.train(local_ids, epoch=epoch, purpose=purpose, number=number[rows])

        return self._by_set(ids, plan)

    def train_at(self, ids: np.ndarray, *, epochs: np.ndarray, purpose: str, number: np.ndarray) -> ClipPlan:
        def plan(planner: ClipPlanner, local_ids: np.ndarray, rows: np.ndarray) -> ClipPlan:
            return planner.train_at(local_ids, epochs=epochs[rows], purpose=purpose, number=number[rows])

        return self._by_set(ids, plan)

    def uniform(self, ids: np.ndarray, *, clips: int, crops: int = 1) -> ClipPlan:
        def plan(planner: ClipPlanner, local_ids: np.ndarray, rows: np.ndarray) -> ClipPlan:
            return planner.uniform(local_ids, clips=clips, crops=crops)

        return self._by_set(ids, plan, per_id=clips * crops)

    def windows(self, ids: np.ndarray, begin: np.ndarray, end: np.ndarray, *, clips: int) -> ClipPlan:
        def plan(planner: ClipPlanner, local_ids: np.ndarray, rows: np.ndarray) -> ClipPlan:
            return planner.windows(local_ids, begin[rows], end[rows], clips=clips)

        return self._by_set(ids, plan, per_id=clips)

    def _by_set(self, ids: np.ndarray, plan: PlanRows, per_id: int = 1) -> ClipPlan:
        """Plans `per_id` clips of each id, next to each other."""
        ids = np.asarray(ids, dtype=np.int64)
        parts, places = [], []
        for number, rows in rows_by_set(ids, self._firsts):
            first = int(self._firsts[number])
            parts.append(shift_ids(plan(self._planners[number], ids[rows] - first, rows), by=first))
            places.append((rows[:, None] * per_id + np.arange(per_id)).reshape(-1))
        return ClipPlan.joined(parts, places)


def rows_by_set(ids: np.ndarray, firsts: np.ndarray) -> list[tuple[int, np.ndarray]]:
    """Returns the number of each data set that occurs in `ids`, int64 [B], and the rows of `ids` that belong to it."""
    which = np.searchsorted(firsts, ids, side="right") - 1
    return [(number, np.flatnonzero(which == number)) for number in np.unique(which).tolist()]


def shift_ids(plan: ClipPlan, *, by: int) -> ClipPlan:
    """Returns the same clips, with `by` added to each sample id."""
    audio = plan.audio
    if audio is not None and audio.mixed_ids is not None:
        audio = replace(audio, mixed_ids=audio.mixed_ids + by)
    return replace(plan, ids=plan.ids + by, audio_ids=plan.audio_ids + by, audio=audio)
