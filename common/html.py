"""Helpers for self-contained HTML pages."""

from __future__ import annotations

import base64
import html
import io
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

THEME = Path(__file__).with_name("theme.css")
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


def fill_page(assets: Path, *, title: str, data: Any, scripts: tuple[str, ...]) -> str:
    """Fills `page.html` in the folder `assets`: no text of the data can become markup or script.

    Its placeholders are {{title}}, {{style}} (the theme and style.css), {{data}} and {{script}} (the `scripts` of the
    folder, joined).

    Raises:
        ValueError: a number of the data is not finite.
    """
    values: Mapping[str, str] = {
        "title": html.escape(title),
        "style": THEME.read_text(encoding="utf-8") + (assets / "style.css").read_text(encoding="utf-8"),
        "data": json_in_html(data),
        "script": "\n".join((assets / name).read_text(encoding="utf-8") for name in scripts),
    }
    # One pass: what is inserted may itself contain placeholders.
    return re.sub(r"\{\{(\w+)\}\}", lambda found: values[found[1]], (assets / "page.html").read_text(encoding="utf-8"))
