"""How well the two sides of a pair go together, on a scale on which models can be compared."""

from __future__ import annotations

import numpy as np

from evaluation.features import unit_rows

MOST_REFERENCES = 8192
"""Largest number of other pairs that a pair is compared with."""
_BLOCK_ROWS = 512


def correspondence(video: np.ndarray, audio: np.ndarray, groups: np.ndarray, *, temperature: float) -> np.ndarray:
    """Scores of n pairs under one model that has seen none of them, float64 [n].

    The other pairs say which sound a video should have: the mean of their sounds, weighted by how near their videos
    are, and likewise which video a sound should have. The similarity of a video and a sound is the sum of three
    cosines: of the sound that there is and the one that the video should have, of the video that there is and the one
    that the sound should have, and of the video and the sound themselves. The last one alone would ask more of the
    model: that it has aligned both modalities for data that it has not seen, and not only that it knows what looks and
    what sounds alike. The mean vector of each modality is subtracted first, because it is common to all pairs.

    The score is the mean of two distances, each in standard deviations: how far the similarity of a pair lies above
    those of its video and other sounds, and above those of its sound and other videos. So 0 is the mean of mismatched
    pairs under every model, and neither sounds that fit everything nor videos that fit little are favoured.

    Args:
        video, audio: mean embeddings of the samples, float [n, D].
        groups: int64 [n]; a pair is not compared with others of its group, which hold copies of it.
        temperature: weights are proportional to exp(cosine / temperature).
    """
    sides = [unit_rows(rows - rows.mean(axis=0, dtype=np.float64)) for rows in (video, audio)]
    n = len(groups)
    references = np.arange(n) if n <= MOST_REFERENCES else np.linspace(0, n - 1, MOST_REFERENCES).astype(np.int64)
    fitting = [_expected(sides[k], sides[1 - k], groups, references, temperature) for k in (0, 1)]
    # The similarity of video i and sound j is left_i · right_j.
    left, right = np.hstack([fitting[0], sides[0]]), np.hstack([sides[1], fitting[1] + sides[1]])
    own = (left * right).sum(axis=1)
    return (_above_others(left, right, own) + _above_others(right, left, own)) / 2


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


def _above_others(rows: np.ndarray, others: np.ndarray, own: np.ndarray) -> np.ndarray:
    """How many standard deviations own_i = rows_i · others_i lies above the mean of rows_i · others_j, j != i; [n].

    The n² products are not formed: the sums of a row and of its squares follow from sums over the columns.
    """
    count = max(1, len(own) - 1)
    means = (rows @ others.sum(axis=0) - own) / count
    squares = (((rows @ (others.T @ others)) * rows).sum(axis=1) - own**2) / count
    return (own - means) / np.sqrt(np.maximum(squares - means**2, 1e-24))
