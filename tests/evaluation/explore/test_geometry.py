"""Maps, nearest neighbours and clusters of the explore page."""

from __future__ import annotations

import numpy as np
import pytest

from common.finite import NotFiniteError
from evaluation.explore import geometry
from evaluation.explore.geometry import clusters, nearest, project


def test_nearest_leaves_a_clip_out_only_within_its_own_modality():
    rows = np.eye(3) + 0.1
    assert nearest(rows, rows.copy()).rows[:, 0].tolist() == [0, 1, 2]
    assert all(k not in near for k, near in enumerate(nearest(rows, rows).rows.tolist()))


def test_nearest_is_the_same_in_blocks_as_at_once(monkeypatch):
    rng = np.random.default_rng(0)
    queries, keys = rng.normal(size=(50, 6)), rng.normal(size=(50, 6))
    keys[7] = keys[3]  # equal similarities: the lower row comes first
    monkeypatch.setattr(geometry, "BLOCK_ROWS", 7)
    cosines = queries @ keys.T / np.linalg.norm(queries, axis=1)[:, None] / np.linalg.norm(keys, axis=1)
    expected = np.argsort(-cosines.round(12), axis=1, kind="stable")[:, :8]
    found = nearest(queries, keys)
    np.testing.assert_array_equal(found.rows, expected)
    np.testing.assert_allclose(found.cosines, np.take_along_axis(cosines, expected, axis=1))
    assert (nearest(queries, queries).rows != np.arange(50)[:, None]).all()


def test_clusters_find_groups_and_are_numbered_by_size():
    rng = np.random.default_rng(1)
    sizes = (4, 8, 6)
    centres = np.repeat(np.eye(3), sizes, axis=0)
    found = clusters(centres + rng.normal(0, 0.02, centres.shape), seed=0)
    assert found.tolist() == [2] * 4 + [0] * 8 + [1] * 6


@pytest.mark.parametrize("function", [lambda bad: project(bad, method="pca", seed=0), lambda bad: nearest(bad, bad)])
def test_what_is_not_finite_is_refused(function):
    bad = np.ones((9, 3))
    bad[4, 1] = np.nan
    with pytest.raises(NotFiniteError, match="4"):
        function(bad)


def test_maps_fill_the_unit_square():
    places = project(np.random.default_rng(2).normal(size=(20, 5)).astype(np.float32), method="pca", seed=0)
    assert places.min(axis=0).tolist() == [0, 0]
    assert places.max(axis=0).tolist() == [1, 1]
