"""The still picture of nearest neighbours."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from evaluation.explore.__main__ import main
from evaluation.explore.geometry import Neighbours, nearest
from evaluation.explore.picture import FOUND, OWN, found_share, write_neighbours
from tests.evaluation.explore.test_page import COUNT, small_page


def with_ranks(ranks: list[int]):
    """A page on which the own sound of clip k is the neighbour number ranks[k] of its video."""
    rows = np.stack([np.roll(np.r_[k, np.delete(np.arange(COUNT), k)][:8], rank) for k, rank in enumerate(ranks)])
    page = small_page()
    found = dict(page.nearest) | {("video", "audio"): Neighbours(rows, np.zeros(rows.shape))}
    return small_page(nearest=found)


def greens(path) -> int:
    with Image.open(path) as picture:
        pixels = np.asarray(picture.convert("RGB")).astype(int)
    own = [int(OWN[k : k + 2], 16) for k in (1, 3, 5)]
    return int((np.abs(pixels - own).max(axis=2) < 3).sum())


def test_the_share_counts_the_clips_whose_own_is_among_the_nearest():
    page = with_ranks([0, FOUND - 1, FOUND, *[7] * (COUNT - 3)])
    assert found_share(page, "video", "audio") == pytest.approx(2 / COUNT)


def test_the_own_clip_has_a_frame_where_it_is_found(tmp_path):
    next_one = (np.arange(COUNT)[:, None] + 1) % COUNT
    apart = {directions: Neighbours(next_one, np.zeros((COUNT, 1))) for directions in small_page().nearest}
    nobody = write_neighbours(small_page(nearest=apart), tmp_path / "nobody.png")
    somebody = write_neighbours(with_ranks([0] * COUNT), tmp_path / "deep" / "somebody.png")
    assert greens(somebody) > greens(nobody) + 1000


def test_labels_that_look_like_formulas_can_be_drawn(tmp_path):
    rows = np.eye(COUNT)
    page = small_page(
        columns={"$a": ["$x_1$"] * COUNT}, nearest=dict.fromkeys(small_page().nearest, nearest(rows, rows))
    )
    path = write_neighbours(page, tmp_path / "x.jpg")
    with Image.open(path) as picture:
        width, height = picture.size
    assert 800 < width < 1400
    assert 400 < height < 900
    assert path.stat().st_size < 300_000


def test_another_suffix_is_refused_at_once(capsys):
    with pytest.raises(SystemExit) as refused:
        main(["no such run", "--data", "no such data", "--picture", "x.txt"])
    assert refused.value.code == 2
    assert "--picture must end in one of .png, .pdf, .svg, .jpg, not x.txt" in capsys.readouterr().err
