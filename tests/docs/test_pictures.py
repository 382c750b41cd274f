"""The committed pictures are those that docs/pictures/draw.py draws from the committed results."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from PIL import Image

PICTURES = Path(__file__).resolve().parents[2] / "docs" / "pictures"


def test_pictures_are_up_to_date():
    spec = importlib.util.spec_from_file_location("draw", PICTURES / "draw.py")
    draw = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(draw)
    drawn = draw.pictures()
    assert {path.name for path in PICTURES.glob("*.svg")} == set(drawn)
    for name, picture in drawn.items():
        assert (PICTURES / name).read_text(encoding="utf-8") == picture, "run: python docs/pictures/draw.py"


def test_the_screenshot_is_small_and_as_wide_as_a_page():
    path = PICTURES / "search.png"
    assert path.stat().st_size <= 200_000
    with Image.open(path) as picture:
        assert picture.width == 1200
