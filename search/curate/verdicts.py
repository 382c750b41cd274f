"""What is wrong with each sample, and which samples to leave out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from search.curate.duplicates import Duplicates
from search.curate.lists import write_csv

SILENT_DB = -60.0
"""Loudness in dB relative to full scale below which a sample counts as silent."""
STATIC_LEVELS = 0.5
"""Motion, in levels of 0 to 255, below which a sample counts as static."""
TABLE, LEAVE_OUT = "pairs.csv", "leave_out.csv"
_COLUMNS = ("source", "split", "fold", "score", "duplicate_of", "picture_likeness", "sound_likeness", "loudness_db")


@dataclass(frozen=True, kw_only=True)
class Verdicts:
    """What was found about the n samples of a data set."""

    sources: Sequence[str]
    splits: Sequence[str]
    """[n] value of the label split; empty text where it is unknown."""
    folds: np.ndarray
    """int64 [n], fold whose model scored the sample; -1 without folds."""
    scores: np.ndarray
    """float64 [n], see search.curate.correspondence."""
    loudness: np.ndarray
    """float64 [n], in dB relative to full scale."""
    motion: np.ndarray
    """float64 [n], see search.curate.reading."""
    duplicate_of: Sequence[str]
    """[n] the most alike other sample of those that are near-duplicates; empty text without any."""
    likeness: np.ndarray
    """float64 [n, 2], correlations of its pictures and of its sound; NaN without a duplicate."""
    superfluous: np.ndarray
    """bool [n], whether another sample of its group of duplicates is kept instead."""
    lowest_score: float
    """Score below which a pair counts as mismatched."""

    def reasons(self, sample: int) -> list[str]:
        """Why the sample should be left out; empty if it should not."""
        found = {
            "silent": self.loudness[sample] < SILENT_DB,
            "static": self.motion[sample] < STATIC_LEVELS,
            "duplicate": self.superfluous[sample],
            "mismatched": self.scores[sample] < self.lowest_score,
        }
        return [reason for reason, holds in found.items() if holds]

    def counts(self) -> dict[str, int]:
        """Number of samples for each reason, and of all that are left out."""
        each = [self.reasons(sample) for sample in range(len(self.sources))]
        kinds = ("mismatched", "duplicate", "silent", "static")
        return {kind: sum(kind in reasons for reasons in each) for kind in kinds} | {"all": sum(map(bool, each))}

    def write(self, out: Path) -> None:
        """Writes pairs.csv and leave_out.csv."""
        write_csv(out / TABLE, (*_COLUMNS, "motion", "leave_out"), self._rows())
        listed = [(source, ";".join(self.reasons(sample))) for sample, source in enumerate(self.sources)]
        write_csv(out / LEAVE_OUT, ("source", "reason"), [row for row in listed if row[1]])

    def _rows(self) -> Iterator[Sequence[object]]:
        for sample, source in enumerate(self.sources):
            fold = self.folds[sample] if self.folds[sample] >= 0 else ""
            alike = [f"{value:.3f}" if np.isfinite(value) else "" for value in self.likeness[sample]]
            score, loudness, motion = self.scores[sample], self.loudness[sample], self.motion[sample]
            figures = (f"{score:.3f}", self.duplicate_of[sample], *alike, f"{loudness:.1f}", f"{motion:.2f}")
            yield source, self.splits[sample], fold, *figures, ";".join(self.reasons(sample))


def nearest_copies(duplicates: Duplicates, names: Sequence[str]) -> tuple[list[str], np.ndarray]:
    """For each of n samples the name of its most alike duplicate, and their correlations [n, 2]; NaN without one."""
    copies, likeness = [""] * len(names), np.full((len(names), 2), np.nan)
    for (i, j), alike in zip(duplicates.pairs.tolist(), duplicates.likeness, strict=True):
        for sample, other in ((i, j), (j, i)):
            if not copies[sample] or alike.min() > likeness[sample].min():
                copies[sample], likeness[sample] = names[other], alike
    return copies, likeness


def superfluous(groups: np.ndarray, splits: Sequence[str], *, fixed: int) -> np.ndarray:
    """Which samples of groups of duplicates are not needed, bool [n]: all but one of each group.

    Kept is a sample that cannot be left out, else one that is not in the split train, as training on a copy of it would
    spoil the test; else the first.

    Args:
        groups: int64 [n].
        fixed: how many of the samples, counted from the end, belong to another data set and cannot be left out.
    """
    n = len(groups)
    order = sorted(range(n), key=lambda sample: (sample < n - fixed, splits[sample] in ("", "train"), sample))
    kept: set[int] = set()
    result = np.zeros(n, dtype=bool)
    for sample in order:
        group = int(groups[sample])
        result[sample] = group in kept and sample < n - fixed
        kept.add(group)
    return result
