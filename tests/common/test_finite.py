"""The check that numbers are finite, and what its message names."""

from __future__ import annotations

import numpy as np
import pytest

from common.finite import NotFiniteError, finite_rows, require_finite, require_finite_figures


def test_rows_with_nan_infinity_or_an_overflowing_length_are_not_finite():
    rows = np.ones((5, 3), dtype=np.float32)
    rows[1, 2], rows[3, 0], rows[4] = np.nan, -np.inf, 1e30
    assert finite_rows(rows).tolist() == [True, False, True, False, False]
    assert finite_rows([1.0, np.nan]).tolist() == [True, False]
    assert finite_rows(np.inf).tolist() == [False]
    assert finite_rows(np.zeros((0, 3))).tolist() == []


def test_the_message_names_the_first_bad_row_and_counts_the_others():
    values = np.array([0.0, np.nan, np.inf])
    with pytest.raises(NotFiniteError, match=r"^the scores are not finite for b\\n.mp4 and 1 more of 3; go back$"):
        require_finite(values, "the scores", name=["a", "b\n.mp4", "c"].__getitem__, advice="go back")
    with pytest.raises(NotFiniteError, match=r"^the scores are not finite for row 1$"):
        require_finite(values[:2], "the scores")
    with pytest.raises(NotFiniteError, match=r"^the loss values are not finite$"):
        require_finite(np.nan, "the loss values")
    require_finite(values[:1], "the scores")
    require_finite(np.array([True, False]), "answers")


@pytest.mark.parametrize("bad", [np.nan, -np.inf, 10**400, -(10**400)], ids=["nan", "-inf", "huge", "-huge"])
def test_a_figure_beyond_the_range_of_a_float_is_named(bad):
    with pytest.raises(NotFiniteError, match=r"^the figures are not finite for rows\.1\.count$"):
        require_finite_figures({"rows": [{"count": 10**300}, {"count": bad}]}, "the figures")
