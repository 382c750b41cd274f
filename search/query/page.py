"""The results of a search as one self-contained HTML page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from common.html import ELEMENT, data_uri, fill_page
from search.query.find import Hit

ASSETS = Path(__file__).with_name("assets")


def build_page(hits: Sequence[Hit], *, title: str, about: str, pictures: Mapping[int, bytes]) -> str:
    """Makes the page; no text of the data can become markup or script.

    Args:
        about: what was searched for, and where.
        pictures: id of a row -> a frame of it, as WebP.
    """
    cards = [
        {
            **hit.as_json(),
            "picture": data_uri("image/webp", pictures[hit.row.id]) if hit.row.id in pictures else None,
        }
        for hit in hits
    ]
    data = {"about": about, "hits": cards}
    return fill_page(ASSETS, title=title, data=data, scripts=[ELEMENT, ASSETS / "app.js"])
