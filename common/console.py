"""The console that every command prints its tables on."""

from __future__ import annotations

from typing import Any

import rich.console
from rich.text import Text

from common.terminal import encodable, printable


class Console(rich.console.Console):
    """rich's console for texts that hold names of files and labels, which are never markup.

    Strings, also those in tables, are printed as they are, except that control characters and line breaks are escaped
    and signs that the output's encoding lacks become plainer. A `rich.text.Text` is printed unchanged.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, highlight=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        """Returns `text` as a Text."""
        return super().render_str(encodable(printable(text), self.encoding), **options)
