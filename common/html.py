"""Pieces of self-contained HTML pages."""

from __future__ import annotations

import base64


def data_uri(kind: str, data: bytes) -> str:
    """Data of a MIME type such as image/png, as a URL that holds it."""
    return f"data:{kind};base64,{base64.b64encode(data).decode('ascii')}"
