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
    are, and likewise which video a sound should have. A pair's similarity is the sum of the cosines of what it has and
    of what it should have. Comparing a video with its own sound directly would ask more of the model: that it has
    aligned both modalities for data that it has not seen, and not only that it knows what looks and what sounds alike.
    The mean vector of each modality is subtracted first, because it is common to all pairs.

    The score is how many standard deviations of mismatched pairs (the video of one sample, the sound of another) the
    similarity lies above their mean. So 0 is the mean of mismatched pairs under every model.

    Args:
        video, audio: mean embeddings of the samples, float [n, D].
        groups: int64 [n]; a pair is not compared with others of its group, which hold copies of it.
        temperature: weights are proportional to exp(cosine / temperature).
    """
    sides = [unit_rows(rows - rows.mean(axis=0, dtype=np.float64)) for rows in (video, audio)]
    n = len(groups)
    references = np.arange(n) if n <= MOST_REFERENCES else np.linspace(0, n - 1, MOST_REFERENCES).astype(np.int64)
    fitting = [_expected(sides[k], sides[1 - k], groups, references, temperature) for k in (0, 1)]
    # Similarity of video i and sound j: what a video should sound like, and what a sound should look like.
    left, right = np.hstack([fitting[0], sides[0]]), np.hstack([sides[1], fitting[1]])
    own = (left * right).sum(axis=1)
    mean, deviation = _mismatched(left, right, own)
    return (own - mean) / max(deviation, 1e-12)


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


def _mismatched(left: np.ndarray, right: np.ndarray, own: np.ndarray) -> tuple[float, float]:
    """Mean and standard deviation of left_i · right_j over all i != j; `own` holds the products with i = j.

    The n² products are not formed: their sum and the sum of their squares follow from sums over the rows.
    """
    count = max(1, len(own) * (len(own) - 1))
    mean = float(left.sum(axis=0) @ right.sum(axis=0) - own.sum()) / count
    squares = float(((left.T @ left) * (right.T @ right)).sum() - (own**2).sum()) / count
    return mean, float(np.sqrt(max(0.0, squares - mean**2)))
