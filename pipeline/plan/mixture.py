"""The order of samples where they are not equally likely: several data sets with weights, or samples with weights.

The samples of a run are numbered: number p is the p-th that all processes together train on. Which data set number p
comes from, and which sample of it, has a closed form, so that a run can be resumed at any step without a history:

- The numbers are split between the first data set and the others as evenly as possible: of the first t numbers it gets
  floor(t * share + phase), with a random phase in [0, 1). The others split theirs in the same way. So after any number
  of steps, the count of each data set differs from its share by fewer samples than there are data sets.
- Each data set is gone through in passes, as a run on this data set alone goes through its epochs. A pass is a
  permutation of the samples; it begins with a new batch, and ends before the first batch for which too few of its
  samples are left. So a batch holds no sample twice, and a pass sees no sample twice.
- Where samples have weights, a pass holds only those that systematic sampling draws: each at most once, with a
  probability proportional to its weight, and the sample of the largest weight (almost) always.

With one data set and equal weights, the passes are the epochs of `pipeline.plan.order`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from common.randomness import numpy_generator, random_key
from pipeline.plan.permutation import permuted
from pipeline.plan.selection import Selection
from settings.errors import ConfigError

_BITS = 31
"""Shares and weights are multiples of 2^-31, so that sums and products are exact in 64 bits."""
_ONE = 2**_BITS
_GOLDEN = (5**0.5 - 1) / 2

Arrange = Callable[[np.ndarray, int, str], np.ndarray]
"""Orders the samples of a pass: gets their indices, int64 [n], the number of the pass and the purpose of the random
numbers; returns a permutation of range(n)."""


@dataclass(frozen=True, kw_only=True)
class WeightedSet:
    """A data set of a mixture.

    Attributes:
        key: prefix of its settings, for messages.
        ids: its n samples, as ids in the data set.
        first: the id that the data set's sample 0 has in the mixture.
        share: its share of all samples that a run trains on, in (0, 1].
        weights: float64 [n], weight of each sample, greater than 0; None if all are equal.
        arrange: orders the samples of a pass; None means a uniformly random permutation.
    """

    key: str
    ids: Selection | np.ndarray
    share: float
    first: int = 0
    weights: np.ndarray | None = None
    arrange: Arrange | None = None


class Mixture:
    """Says which sample has which number in a run, as a pure function of (seed, number).

    Args:
        sets: the data sets, in the order of their ids; one more at the end changes neither the order within passes nor
            the random numbers of the others.
        batch: number of samples of a global batch.
        seed: seed of the run.

    Attributes:
        sizes: int64 [sets], number of samples of each data set.
        drawn: int64 [sets], number of samples of a pass: `sizes`, or fewer where samples have weights.
        shares: float64 [sets], sums to 1.
    """

    def __init__(self, sets: Sequence[WeightedSet], *, batch: int, seed: int) -> None:
        self.batch, self.seed = batch, seed
        self.keys = [one.key for one in sets]
        self._passes = [_Passes(one, index=index, seed=seed) for index, one in enumerate(sets)]
        self.sizes = np.array([len(one.ids) for one in sets], dtype=np.int64)
        self.drawn = np.array([one.drawn for one in self._passes], dtype=np.int64)
        self.shares = np.array([one.share for one in sets])
        self._fractions = _fractions(self.shares)
        self._phases = [random_key(seed, 0, f"mix/{index}") % _ONE for index in range(len(sets) - 1)]
        self._steps = [self._steps_per_pass(index) for index in range(len(sets))]

    def samples(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns the ids of the samples with these numbers, and which pass through its data set each belongs to.

        Args:
            numbers: numbers of samples in the run, int64 [P].

        Returns:
            (int64 [P], int64 [P]).
        """
        numbers = np.asarray(numbers, dtype=np.int64)
        ids, passes = np.empty_like(numbers), np.empty_like(numbers)
        which, ranks = self._split(numbers)
        for index, steps in enumerate(self._steps):
            rows = np.flatnonzero(which == index)
            passes[rows] = numbers[rows] // self.batch // steps
            for epoch in np.unique(passes[rows]).tolist():
                here = rows[passes[rows] == epoch]
                before = self.counts(epoch * steps * self.batch)[index]
                ids[here] = self._passes[index].ids(ranks[here] - before, epoch=epoch, purpose="order")
        return ids, passes

    def distinct(self, count: int, *, epoch: int, purpose: str) -> np.ndarray:
        """Returns the ids of different samples in the shares of the mixture, int64 [n].

        These are `count`, or fewer if a data set has too few samples for its share of `count`.

        Args:
            epoch, purpose: select the random numbers.
        """
        numbers = np.arange(count)
        which, ranks = self._split(numbers)
        ids = np.full(count, -1, dtype=np.int64)
        for index, drawn in enumerate(self.drawn):
            rows = np.flatnonzero((which == index) & (ranks < drawn))
            ids[rows] = self._passes[index].ids(ranks[rows], epoch=epoch, purpose=purpose)
        return ids[ids >= 0]

    def counts(self, count: int) -> np.ndarray:
        """Returns how many of the first `count` samples of a run come from each data set, int64 [sets]."""
        counts, rest = [], np.array([count], dtype=np.int64)
        for fraction, phase in zip(self._fractions, self._phases, strict=True):
            taken = _evenly(rest, fraction, phase)
            counts.append(taken)
            rest = rest - taken
        return np.concatenate([*counts, rest])

    @property
    def parts(self) -> tuple[tuple[int, float], ...]:
        """The number of samples of a pass, and the share, of each data set."""
        return tuple(zip(self.drawn.tolist(), self.shares.tolist(), strict=True))

    def metrics(self, steps: int) -> dict[str, float]:
        """Returns how the first `steps` steps of a run were shared; empty for a single data set.

        Returns:
            For each data set of a mix: mix/NAME/samples, how many of its samples were trained on, repetitions included;
            mix/NAME/share, their share of those of all data sets; mix/NAME/passes, how often each was seen on average.
        """
        counts, metrics = self.counts(steps * self.batch).tolist(), {}
        for key, count, size in zip(self.keys, counts, self.sizes.tolist(), strict=True):
            if key.startswith("data.mix."):
                name = key.removeprefix("data.").rstrip(".").replace(".", "/")
                metrics[f"{name}/samples"] = count
                metrics[f"{name}/share"] = count / max(steps * self.batch, 1)
                metrics[f"{name}/passes"] = count / size
        return metrics

    def replacement(self, sample: int, uniform: float) -> int:
        """Returns a sample of the data set of `sample`; `uniform`, in [0, 1), draws it in proportion to the weights."""
        which = max(place for place, one in enumerate(self._passes) if one.first <= sample)
        return self._passes[which].draw(uniform)

    def _split(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns the data set of each number, and how many smaller numbers that data set has; int64 [P] each."""
        which, ranks = np.full_like(numbers, len(self._passes) - 1), numbers.copy()
        rows = np.arange(len(numbers))
        for index, (fraction, phase) in enumerate(zip(self._fractions, self._phases, strict=True)):
            taken = _evenly(ranks[rows], fraction, phase)
            mine = _evenly(ranks[rows] + 1, fraction, phase) > taken
            which[rows[mine]] = index
            ranks[rows] = np.where(mine, taken, ranks[rows] - taken)
            rows = rows[~mine]
        return which, ranks

    def _most(self, index: int, count: int) -> int:
        """Returns how many of `count` consecutive samples of a run can be of a data set at most."""
        for before in range(index):
            count -= count * self._fractions[before] >> _BITS
        return count if index == len(self._fractions) else -(-count * self._fractions[index] >> _BITS)

    def _steps_per_pass(self, index: int) -> int:
        """Returns the number of steps that the samples of one pass suffice for, wherever the pass begins."""
        drawn, (low, high) = int(self.drawn[index]), (0, int(self.drawn[index]) * _ONE)
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if self._most(index, middle * self.batch) <= drawn else (low, middle - 1)
        if low == 0:
            raise ConfigError(self._too_few(index))
        return low

    def _too_few(self, index: int) -> str:
        key, drawn, most = self.keys[index], int(self.drawn[index]), self._most(index, self.batch)
        which = f"{int(self.sizes[index])} samples"
        if drawn < self.sizes[index]:
            which += f", of which {key}weights allows only {drawn} different ones, as its largest weight is so large"
        lower = "train.batch_size" if len(self.keys) == 1 else f"train.batch_size or {key}weight"
        return (
            f"a batch holds up to {most} samples of the data set at {key}path, which has {which}: lower {lower}, "
            "because a batch must not hold a sample twice"
        )


class _Passes:
    """The passes through one data set; `index` is its place in the mixture."""

    def __init__(self, one: WeightedSet, *, index: int, seed: int) -> None:
        self.first, self._ids, self._seed, self._arrange = one.first, one.ids, seed, one.arrange
        # Without a suffix for the first data set, which thus has the random numbers of a run on it alone.
        self._suffix = f"/{index}" if index else ""
        self._ends: np.ndarray | None = None
        self.drawn = len(one.ids)
        if one.weights is not None:
            # In random order, because neighbours are rarely drawn together, and files of a folder are neighbours.
            self._order = numpy_generator(seed, 0, f"weights{self._suffix}").permutation(len(one.ids))
            self._ends = _scaled(one.weights)[self._order].cumsum()
            self._total = int(self._ends[-1])
            self.drawn = drawn_per_pass(one.weights)
        self._arranged = lru_cache(maxsize=2)(self._arranged_pass)

    def ids(self, places: np.ndarray, *, epoch: int, purpose: str) -> np.ndarray:
        """Returns the ids at `places`, int64 [P] in [0, drawn), of the pass number `epoch`."""
        purpose += self._suffix
        if self._arrange is not None:
            return self._ids[self._arranged(epoch, purpose)[places]] + self.first
        points = permuted(places, self.drawn, random_key(self._seed, epoch, purpose))
        return self._ids[self._indices(points, epoch, purpose)] + self.first

    def draw(self, uniform: float) -> int:
        """Returns the id of a sample that `uniform`, in [0, 1), draws in proportion to the weights."""
        if self._ends is None:
            return int(self._ids[int(uniform * len(self._ids))]) + self.first
        return int(self._ids[self._at(np.array([int(uniform * self._total)]))[0]]) + self.first

    def _arranged_pass(self, epoch: int, purpose: str) -> np.ndarray:
        assert self._arrange is not None
        indices = self._indices(np.arange(self.drawn), epoch, purpose)
        return indices[self._arrange(indices, epoch, purpose)]

    def _indices(self, points: np.ndarray, epoch: int, purpose: str) -> np.ndarray:
        """Returns the index of the sample at each of the points of a pass, int64 [P].

        The points are equally spaced on a circle on which each sample has an arc as long as its weight. No arc is
        longer than the spacing, so no sample has two points. From pass to pass all points move by the golden section
        of the spacing, which spreads the passes that hold a sample as evenly as possible.
        """
        if self._ends is None:
            return points
        spacing = self._total // self.drawn
        start = random_key(self._seed, 0, f"{purpose}/weights") + epoch * round(spacing * _GOLDEN) % spacing
        return self._at((start % self._total + points * spacing) % self._total)

    def _at(self, targets: np.ndarray) -> np.ndarray:
        """Returns the index of the sample on whose arc each target lies, int64 [P]."""
        assert self._ends is not None
        return self._order[np.searchsorted(self._ends, targets, side="right")]


def drawn_per_pass(weights: np.ndarray) -> int:
    """Returns the number of samples that a pass holds, given their weights, float64 [n], greater than 0."""
    return int(_scaled(weights).sum()) // _ONE


def _scaled(weights: np.ndarray) -> np.ndarray:
    """Returns the weights as whole numbers, int64 [n], of which the largest is 2^31."""
    return np.maximum(np.rint(weights / weights.max() * _ONE), 1).astype(np.int64)


def _fractions(shares: np.ndarray) -> list[int]:
    """Returns, for each data set but the last, its share of what the earlier ones leave, in units of 2^-31."""
    left = shares[::-1].cumsum()[::-1]
    return [min(max(round(share / rest * _ONE), 1), _ONE - 1) for share, rest in zip(shares, left, strict=True)][:-1]


def _evenly(count: np.ndarray, fraction: int, phase: int) -> np.ndarray:
    """Returns floor(count * fraction + phase), int64 [P]; `fraction` and `phase` are in units of 2^-31."""
    high, low = count >> _BITS, count & (_ONE - 1)
    return high * fraction + ((low * fraction + phase) >> _BITS)
