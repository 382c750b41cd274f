"""Helpers for self-contained HTML pages."""

from __future__ import annotations

import base64


def data_uri(kind: str, data: bytes) -> str:
    """Returns `data` as a base64 data URI; `kind` is its MIME type, such as image/png."""
    return f"data:{kind};base64,{base64.b64encode(data).decode('ascii')}"
