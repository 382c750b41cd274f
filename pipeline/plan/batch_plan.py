"""The plan of one batch of a loader; clips of bad samples may be replaced by clips of other samples."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from common.randomness import uniforms
from pipeline.plan.bad_samples import BadSample, SampleError, listing
from pipeline.plan.clips import ClipPlan, ClipPlanner

MAX_ATTEMPTS = 64
"""Largest number of replacements tried per clip; that many fail in a row only if almost nothing can be read."""


@dataclass(frozen=True, kw_only=True)
class Replacement:
    """Chooses the sample that replaces a bad one: a pure function of (seed, epoch, id, purpose, attempt).

    All clips of a sample in a batch get the same replacement, of which they are different clips.

    The choice depends neither on the batch nor on the rank nor on other bad samples, so that every world size and every
    resumed run gets the same clips.

    Attributes:
        planner: plans the clips of replacements.
        choose: returns a sample in place of the given one, for a uniform number in [0, 1).
        source: returns the source path of an id.
        purpose: as in `ClipPlanner.train`.
    """

    planner: ClipPlanner
    choose: Callable[[int, float], int]
    source: Callable[[int], str]
    purpose: str

    def replacement_id(self, sample: int, attempt: int, *, epoch: int) -> int:
        """Id of the sample to try at the `attempt`-th (from 1) replacement of a clip of `sample`."""
        (number,) = uniforms(
            np.array([sample]),
            1,
            seed=self.planner.config.seed,
            epoch=epoch,
            purpose=f"{self.purpose}/replacement/{attempt}",
        )[0]
        return self.choose(sample, float(number))

    def plan(self, ids: list[int], *, epochs: np.ndarray, number: np.ndarray) -> ClipPlan:
        """Plans one training clip per id; `epochs` and `number`, int64 [ids], as for `ClipPlanner.train_at`."""
        wanted = np.array(ids, dtype=np.int64)
        return self.planner.train_at(wanted, epochs=epochs, purpose=self.purpose, number=number)


class BatchPlan:
    """The clips of one batch, and the bad samples among them.

    Attributes:
        plan: the clips, including replacements.
        bad: the bad samples found so far.

    Args:
        plan: the clips before any replacement.
        replacement: chooses replacements; None if no clip may be replaced.
    """

    def __init__(self, plan: ClipPlan, replacement: Replacement | None = None) -> None:
        self.plan = plan
        self.bad: list[BadSample] = []
        self._wanted = plan.ids
        self._replacement = replacement
        self._attempts = np.zeros(len(plan), dtype=np.int64)

    @property
    def is_replaceable(self) -> bool:
        """Whether bad samples of this batch may be replaced."""
        return self._replacement is not None

    def replace(self, errors: Mapping[int, SampleError]) -> None:
        """Replaces the clips that turned out to be bad; `errors` maps their rows to the errors.

        Raises:
            SampleError: one of `errors`, if clips must not be replaced or no single sample is at fault; a new one if
                MAX_ATTEMPTS replacements of a clip have failed.
        """
        rows, ids = list(errors), []
        for row, error in errors.items():
            if self._replacement is None or error.sample is None:
                raise error
            self._attempts[row] += 1
            wanted, attempt = int(self._wanted[row]), int(self._attempts[row])
            ids.append(self._replacement.replacement_id(wanted, attempt, epoch=int(self.plan.epoch[row])))
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
                    f"{listing(self.bad)}\ncheck that data.path is complete and its disk is mounted"
                )
        if self._replacement is not None:
            self.plan = self.plan.with_rows(
                rows, self._replacement.plan(ids, epochs=self.plan.epoch[rows], number=self.plan.number[rows])
            )
