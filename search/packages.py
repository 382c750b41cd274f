"""The optional packages of search/: imported only when a command needs them."""

from __future__ import annotations

import errno
from pathlib import Path

from common.environment import MissingPackage, missing_packages

INSTALL = "pip install -r requirements-search.txt"
"""The command that installs them."""


def require_packages(*names: str) -> None:
    """Raises MissingPackage unless the packages can be imported; imports none of them.

    Args:
        names: names to import, such as pyarrow.
    """
    if missing := missing_packages(*names):
        verb = "is" if len(missing) == 1 else "are"
        raise MissingPackage(f"{' and '.join(missing)} {verb} not installed; install with: {INSTALL}")


def require_utf8(folder: Path) -> None:
    """Raises OSError if the path of a folder is not UTF-8: pyarrow and FAISS cannot open files there."""
    try:
        str(folder).encode()
    except UnicodeEncodeError:
        raise OSError(
            errno.EILSEQ, "the path is not UTF-8, so pyarrow cannot open it; use another", str(folder)
        ) from None
