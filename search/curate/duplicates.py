"""Near-duplicates: the same recording twice, encoded anew, resized or cut."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from common.progress import show_progress
from common.randomness import numpy_generator
from evaluation.features import unit_rows
from search.curate.reading import Samples, mean_vectors

NEIGHBOURS = 5
"""Nearest neighbours of each sample, in each of four views, that are compared in detail."""
LAG_SECONDS = 1.5
"""Largest difference between the starts of two copies, in seconds."""
RANDOM_PAIRS = 500
"""Number of random pairs that show how alike different recordings are."""
_BLOCK_ROWS = 512
_ABOVE = 12.0
"""How far above the median of random pairs a duplicate lies, in robust deviations."""
_LEAST = 3.2
"""Agreement below which nothing is a duplicate, however different random pairs are: two correlations of 0.92."""
_FLOOR = 0.7
"""Correlation that the pictures and the sounds of duplicates exceed."""
_SURE = 4.2
"""Agreement above which a pair is a duplicate, however alike random pairs are: two correlations of 0.97."""
_SHORTEST = 0.5
"""Share of the shorter of two samples that must overlap."""


@dataclass(frozen=True, kw_only=True)
class Duplicates:
    """Pairs of n samples that are near-duplicates."""

    pairs: np.ndarray
    """int64 [P, 2], i < j."""
    likeness: np.ndarray
    """float64 [P, 2], correlations of their pictures and of their sounds."""
    groups: np.ndarray
    """int64 [n], samples with the same number are linked by duplicates; the number is that of the first of them."""
    limit: float
    """Agreement (see `agreement`) that they exceed."""


def find_duplicates(samples: Samples, *, fps: float) -> Duplicates:
    """Finds pairs whose pictures and sounds, both, are more alike than those of different recordings.

    The limit is measured: random pairs show how alike different recordings of this data set are.

    Args:
        fps: rate of the traces, in frames per second.
    """
    n = len(samples.loudness)
    pairs = candidates(samples)
    likeness = compare(samples, pairs, fps=fps)
    drawn = numpy_generator(0, 0, "different recordings").integers(0, n, (RANDOM_PAIRS, 2))
    different = agreement(compare(samples, drawn[drawn[:, 0] != drawn[:, 1]], fps=fps))
    middle = float(np.median(different)) if len(different) else 0.0
    # 1.4826 makes the median absolute deviation that of a normal distribution.
    deviation = 1.4826 * float(np.median(np.abs(different - middle))) if len(different) else 0.0
    limit = min(max(_LEAST, middle + _ABOVE * deviation), _SURE)
    found = (likeness > _FLOOR).all(axis=1) & (agreement(likeness) > limit)
    return Duplicates(pairs=pairs[found], likeness=likeness[found], groups=linked(n, pairs[found]), limit=limit)


def agreement(likeness: np.ndarray) -> np.ndarray:
    """Sum of the Fisher transforms (inverse hyperbolic tangents) of both correlations [P, 2], float64 [P].

    On this scale the correlations of different recordings spread about evenly, so that their deviation says how rare a
    larger one is.
    """
    return np.arctanh(np.clip(likeness, -0.999, 0.999)).sum(axis=1)


def linked(n: int, pairs: np.ndarray) -> np.ndarray:
    """For each of n samples the first sample that it is linked to by pairs, directly or through others; int64 [n]."""
    first = np.arange(n)

    def root(sample: int) -> int:
        while first[sample] != sample:
            first[sample] = first[first[sample]]
            sample = int(first[sample])
        return sample

    for i, j in pairs.tolist():
        low, high = sorted((root(i), root(j)))
        first[high] = low
    return np.array([root(sample) for sample in range(n)], dtype=np.int64)


def views(samples: Samples) -> list[np.ndarray]:
    """Four descriptions of each sample in which its copies are near, each float64 [n, D].

    The embeddings of video and sound ignore how a file was encoded. The mean picture and the mean and spread of the
    spectrum need no model, so that a model that knows only classes does not hide a copy among its class.
    """
    pictures = np.stack([trace.mean(axis=0) for trace in samples.pictures])
    spectra = np.stack([np.concatenate([trace.mean(axis=0), trace.std(axis=0)]) for trace in samples.spectra])
    return [mean_vectors(samples.video), mean_vectors(samples.audio), pictures, spectra]


def candidates(samples: Samples) -> np.ndarray:
    """Pairs that may be duplicates, int64 [P, 2] with i < j: near neighbours in one of the `views`."""
    found = set()
    for view in views(samples):
        for sample, near in enumerate(_nearest(view)):
            found |= {(min(sample, other), max(sample, other)) for other in near.tolist()}
    return np.array(sorted(found), dtype=np.int64).reshape(-1, 2)


def _nearest(view: np.ndarray) -> np.ndarray:
    """Nearest other rows of each row, by cosine of the standardised columns; int64 [n, NEIGHBOURS or n - 1]."""
    centred = view - view.mean(axis=0)
    rows = unit_rows(centred / np.maximum(centred.std(axis=0), 1e-9))
    count = min(NEIGHBOURS, len(rows) - 1)
    found = []
    for first in range(0, len(rows), _BLOCK_ROWS):
        block = rows[first : first + _BLOCK_ROWS] @ rows.T
        block[np.arange(len(block)), first + np.arange(len(block))] = -np.inf
        found.append(np.argpartition(-block, count - 1, axis=1)[:, :count] if count else np.zeros((len(block), 0), int))
    return np.concatenate(found)


def compare(samples: Samples, pairs: np.ndarray, *, fps: float) -> np.ndarray:
    """Correlations of pictures and sounds of each pair, at the shift in time that suits both best; float64 [P, 2].

    Args:
        pairs: int64 [P, 2].
        fps: rate of the traces, in frames per second.
    """
    most = max(1, round(LAG_SECONDS * fps))
    spectrum = np.concatenate(samples.spectra).mean(axis=0, dtype=np.float64)
    result = np.zeros((len(pairs), 2))
    for row, (i, j) in enumerate(show_progress(pairs.tolist(), total=len(pairs), unit="pairs of samples")):
        result[row] = _aligned(samples, i, j, most, spectrum)
    return result


def _aligned(samples: Samples, i: int, j: int, most: int, spectrum: np.ndarray) -> tuple[float, float]:
    first, second = samples.pictures[i], samples.pictures[j]
    shortest = _SHORTEST * min(len(first), len(second))
    best = (-1.0, -1.0)
    for lag in range(-most, most + 1):
        begin, other = max(0, lag), max(0, -lag)
        length = min(len(first) - begin, len(second) - other)
        if length < max(1, shortest):
            continue
        a, b = slice(begin, begin + length), slice(other, other + length)
        found = (
            _correlation(first[a], second[b]),
            _correlation(samples.spectra[i][a] - spectrum, samples.spectra[j][b] - spectrum),
        )
        best = max(best, found, key=min)
    return best


def _correlation(first: np.ndarray, second: np.ndarray) -> float:
    """Pearson's correlation of all values; 0 if one is constant."""
    x, y = first.ravel().astype(np.float64), second.ravel().astype(np.float64)
    x, y = x - x.mean(), y - y.mean()
    size = np.sqrt((x @ x) * (y @ y))
    return float(x @ y / size) if size > 0 else 0.0
