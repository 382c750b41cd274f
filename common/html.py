"""Helpers for self-contained HTML pages."""

from __future__ import annotations

import base64
import html
import io
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

ELEMENT = Path(__file__).parent / "assets" / "element.js"
"""A script that defines `element` for those after it."""
FRAME = Path(__file__).parent / "assets" / "frame.html"
"""What all pages have around their body."""
THEME = Path(__file__).parent / "assets" / "theme.css"
"""Colours, light and dark, and controls that the pages share."""


def data_uri(kind: str, data: bytes) -> str:
    """Returns `data` as a base64 data URI; `kind` is its MIME type, such as image/png."""
    return f"data:{kind};base64,{base64.b64encode(data).decode('ascii')}"


def webp(picture: np.ndarray, *, quality: int | None) -> bytes:
    """Encodes uint8 [H, W, 3], with sides up to 16,383, as WebP; quality None keeps every value."""
    buffer = io.BytesIO()
    lossless = quality is None
    Image.fromarray(picture).save(buffer, "WEBP", lossless=lossless, quality=80 if lossless else quality, method=4)
    return buffer.getvalue()


def json_in_html(data: Any) -> str:
    """JSON for the inside of a script element.

    Without any "<", texts like </script> or <!-- cannot end the element.

    Raises:
        ValueError: a number is not finite; JSON in a browser has no such numbers.
    """
    return json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c").replace("&", "\\u0026")


def fill_page(assets: Path, *, title: str, data: Any, scripts: Sequence[Path], plays_sound: bool = False) -> str:
    """Makes a page of `body.html` and `style.css` in the folder `assets`, and of `scripts`.

    No text of the data can become markup or script, and the page's policy forbids requests.

    Args:
        title: replaces {{title}} in the body, too.
        data: the content of the page's element `data`, as JSON.
        plays_sound: whether the page may play sound, which must be in the data.

    Raises:
        ValueError: a number of the data is not finite.
    """
    frame, body = FRAME.read_text(encoding="utf-8"), (assets / "body.html").read_text(encoding="utf-8")
    values: Mapping[str, str] = {
        "media": " media-src data:;" if plays_sound else "",
        "title": html.escape(title),
        "style": THEME.read_text(encoding="utf-8") + (assets / "style.css").read_text(encoding="utf-8"),
        "data": json_in_html(data),
        "script": "\n".join(path.read_text(encoding="utf-8") for path in scripts),
    }
    # One pass: the values may themselves contain placeholders.
    return re.sub(r"\{\{(\w+)\}\}", lambda found: values[found[1]], frame.replace("{{body}}\n", body))
