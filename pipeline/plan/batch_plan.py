"""The plan of one batch in a loader, in which bad samples may be replaced by others."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from common.randomness import uniforms
from pipeline.plan.bad_samples import BadSample, SampleError, listing
from pipeline.plan.clips import ClipPlan, ClipPlanner

MAX_ATTEMPTS = 64
"""Replacements tried per clip. So many in a row fail only where hardly anything can be read."""


@dataclass(frozen=True, kw_only=True)
class Replacement:
    """Which sample replaces a bad one: a pure function of (seed, epoch, id, purpose, attempt).

    It depends on neither batch, rank nor on what else was found bad, so that every world size and every resumed run
    gets the same clips.

    Attributes:
        planner: plans the replacement's own clip.
        ids: int64 [n], the samples to draw from.
        source: id -> source path.
        epoch, purpose: those of the clips.
    """

    planner: ClipPlanner
    ids: np.ndarray
    source: Callable[[int], str]
    epoch: int
    purpose: str

    def replacement_id(self, sample: int, attempt: int) -> int:
        """Id of the `attempt`-th (from 1) replacement of the clip of `sample`."""
        (number,) = uniforms(
            np.array([sample]),
            1,
            seed=self.planner.config.seed,
            epoch=self.epoch,
            purpose=f"{self.purpose}/replacement/{attempt}",
        )[0]
        return int(self.ids[int(number * len(self.ids))])

    def plan(self, ids: list[int]) -> ClipPlan:
        return self.planner.train(np.array(ids, dtype=np.int64), epoch=self.epoch, purpose=self.purpose)


class BatchPlan:
    """One batch.

    Attributes:
        plan: the clips, replacements included.
        bad: the bad samples found so far.

    Args:
        plan: the clips that are wanted.
        replacement: None if no clip may be replaced.
    """

    def __init__(self, plan: ClipPlan, replacement: Replacement | None = None) -> None:
        self.plan = plan
        self.bad: list[BadSample] = []
        self._wanted = plan.ids
        self._replacement = replacement
        self._attempts = np.zeros(len(plan), dtype=np.int64)

    @property
    def is_replaceable(self) -> bool:
        return self._replacement is not None

    def replace(self, errors: Mapping[int, SampleError]) -> None:
        """Replaces the clips (row -> why) that turned out to be bad.

        Raises:
            SampleError: the first of `errors`, if clips must not be replaced or no single sample is at fault; or
                hardly anything can be read.
        """
        rows, ids = list(errors), []
        for row, error in errors.items():
            if self._replacement is None or error.sample is None:
                raise error
            self._attempts[row] += 1
            ids.append(self._replacement.replacement_id(int(self._wanted[row]), int(self._attempts[row])))
            self.bad.append(
                BadSample(
                    sample=error.sample,
                    source=self._replacement.source(error.sample),
                    file=error.file,
                    reason=error.reason,
                    replacement=ids[-1],
                )
            )
            if self._attempts[row] > MAX_ATTEMPTS:
                raise SampleError(
                    f"none of {MAX_ATTEMPTS} samples drawn in place of sample {self._wanted[row]} can be read:\n"
                    f"{listing(self.bad)}\ncheck that data.path is whole and its disk is there"
                )
        if self._replacement is not None:
            self.plan = self.plan.with_rows(rows, self._replacement.plan(ids))
