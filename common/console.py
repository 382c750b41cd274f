"""The console that every command prints its tables on."""

from __future__ import annotations

from typing import Any

import rich.console
from rich.text import Text

from common.terminal import encodable, printable


class Console(rich.console.Console):
    """rich's console without markup, because file names and labels may contain brackets.

    In strings, also those in tables, control characters and line breaks are escaped, and characters that the output's
    encoding lacks are replaced by ASCII (see `common.terminal`). A `rich.text.Text` is printed unchanged.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, highlight=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        """Converts a string to the `Text` that rich prints, with unprintable characters escaped."""
        return super().render_str(encodable(printable(text), self.encoding), **options)
