"""How well the two sides of a pair go together, on a scale on which models can be compared."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from evaluation.features import unit_rows
from search.curate.reading import mean_vectors

MOST_REFERENCES = 8192
"""Largest number of other pairs that say what a pair should be like."""
MOST_CLIPS = 8
"""Largest number of clips per sample that are compared one by one."""
_BLOCK_ROWS = 512
_LEAST_SHARE = 0.01
"""Least variance of a pair's similarities with others, relative to that of all pairs."""

Factors = tuple[np.ndarray, np.ndarray]
"""Rows of the videos and of the sounds; the similarity of video i and sound j is the product of their rows i and j."""


def correspondence(
    video: Sequence[np.ndarray], audio: Sequence[np.ndarray], groups: np.ndarray, *, temperature: float
) -> np.ndarray:
    """Scores of n pairs under one model that has seen none of them, float64 [n].

    A video and a sound are similar in two ways, and how much each of them counts is fitted to the data (`_weights`).

    - What others are like: the other pairs say which sound a video should have, as the mean of their sounds, weighted
      by how near their videos are, and likewise which video a sound should have. The similarity is the sum of the
      cosines of what there is and of what there should be. It only asks of the model that it knows what looks and what
      sounds alike, so it is better if the model has not aligned both modalities for data that it has not seen.
    - What is there: the mean cosine of the first clip of the video and the first of the sound, of both second ones, and
      so on. It is better if the content changes within a sample, as speech does.

    The mean vector of each modality is subtracted first, because it is common to all pairs.

    The score is the mean of two distances, each in standard deviations: how far the similarity of a pair lies above
    those of its video and other sounds, and above those of its sound and other videos. So 0 is the mean of mismatched
    pairs under every model, and a sound that fits many videos gains nothing from that. One or two pairs, which have
    nothing to be compared with, get 0.

    Args:
        video, audio: [n] embeddings of the clips of each sample, float [C, D]; C may differ between samples, but not
            between the modalities.
        groups: int64 [n]; a pair is not compared with others of its group, which hold copies of it.
        temperature: weights of other pairs are proportional to exp(cosine / temperature).
    """
    if len(groups) < 3:
        return np.zeros(len(groups))
    ways = [_by_others(video, audio, groups, temperature), (_by_clip(video), _by_clip(audio))]
    weights = _weights(ways)
    left = np.hstack([weight * rows for weight, (rows, _) in zip(weights, ways, strict=True)])
    right = np.hstack([rows for _, rows in ways])
    own = (left * right).sum(axis=1)
    return (_above_others(left, right, own) + _above_others(right, left, own)) / 2


def _by_others(
    video: Sequence[np.ndarray], audio: Sequence[np.ndarray], groups: np.ndarray, temperature: float
) -> Factors:
    """The similarity to what a pair should be like, by the means over the clips."""
    means = [mean_vectors(clips) for clips in (video, audio)]
    sides = [unit_rows(rows - rows.mean(axis=0)) for rows in means]
    n = len(groups)
    references = np.arange(n) if n <= MOST_REFERENCES else np.linspace(0, n - 1, MOST_REFERENCES).astype(np.int64)
    fitting = [_expected(sides[k], sides[1 - k], groups, references, temperature) for k in (0, 1)]
    return np.hstack([fitting[0], sides[0]]), np.hstack([sides[1], fitting[1]])


def _expected(
    near: np.ndarray, wanted: np.ndarray, groups: np.ndarray, references: np.ndarray, temperature: float
) -> np.ndarray:
    """Means of the rows of `wanted`, weighted by the nearness of the rows of `near`, as unit vectors [n, D]."""
    found = []
    for first in range(0, len(near), _BLOCK_ROWS):
        rows = slice(first, first + _BLOCK_ROWS)
        nearness = near[rows] @ near[references].T / temperature
        nearness[groups[rows, None] == groups[references]] = -np.inf
        highest = nearness.max(axis=1, keepdims=True)
        weights = np.exp(nearness - np.where(np.isfinite(highest), highest, 0))
        found.append(weights @ wanted[references])
    return unit_rows(np.concatenate(found))


def _by_clip(clips: Sequence[np.ndarray]) -> np.ndarray:
    """Unit vectors of each sample's clips one after another, float32 [n, C * D], zeros after the last clip.

    They are scaled so that the product of two samples with as many clips is the mean of their clips' cosines.
    """
    centre = np.mean([vectors.sum(axis=0, dtype=np.float64) for vectors in clips], axis=0)
    centre /= np.mean([len(vectors) for vectors in clips])
    rows = np.zeros((len(clips), min(MOST_CLIPS, max(map(len, clips))), clips[0].shape[1]), np.float32)
    for row, vectors in zip(rows, clips, strict=True):
        count = min(len(vectors), MOST_CLIPS)
        chosen = np.linspace(0, len(vectors) - 1, count).round().astype(np.int64)
        row[:count] = unit_rows(vectors[chosen] - centre) / np.sqrt(count)
    return rows.reshape(len(rows), -1)


def _weights(ways: Sequence[Factors]) -> np.ndarray:
    """How much each similarity counts, float64, none negative: Fisher's linear discriminant (1936).

    It separates the n pairs, most of which should be right, from the n (n - 1) mismatched ones as well as a weighted
    sum can. The products of the latter are not formed: their moments follow from sums over the rows.
    """
    n = len(ways[0][0])
    count = max(1, n * (n - 1))
    own = np.stack([(left * right).sum(axis=1) for left, right in ways]).astype(np.float64)
    sums = [float(left.sum(axis=0, dtype=np.float64) @ right.sum(axis=0, dtype=np.float64)) for left, right in ways]
    means = (np.array(sums) - own.sum(axis=1)) / count
    squares = np.array([[((a.T @ c) * (b.T @ d)).sum(dtype=np.float64) for c, d in ways] for a, b in ways])
    covariance = (squares - own @ own.T) / count - np.outer(means, means)
    deviations = np.sqrt(np.maximum(np.diag(covariance), 1e-24))
    correlation = covariance / np.outer(deviations, deviations)
    weights = np.linalg.pinv(correlation, hermitian=True) @ ((own.mean(axis=1) - means) / deviations)
    # A way that separates nothing may get a negative weight, which would be an accident.
    weights = np.maximum(weights, 0.0)
    return (weights if weights.any() else np.ones(len(ways))) / deviations


def _above_others(rows: np.ndarray, others: np.ndarray, own: np.ndarray) -> np.ndarray:
    """How many standard deviations own_i = rows_i · others_i lies above the mean of rows_i · others_j, j != i; [n].

    The n² products are not formed: the sums of a row and of its squares follow from sums over the columns.
    """
    count = max(1, len(own) - 1)
    means = (rows @ others.sum(axis=0) - own) / count
    squares = (((rows @ (others.T @ others)) * rows).sum(axis=1) - own**2) / count
    # Of very few products the deviation may be 0 by accident.
    least = _LEAST_SHARE * (squares.mean() - means.mean() ** 2)
    return (own - means) / np.sqrt(np.maximum(squares - means**2, max(least, 1e-24)))
