"""The optional packages of search/: imported only when a command needs them."""

from __future__ import annotations

from importlib.util import find_spec

INSTALL = "pip install -r requirements-search.txt"
"""The command that installs them."""


class MissingPackage(Exception):
    """An optional package is not installed; the message names the command that installs it."""


def require_packages(*names: str) -> None:
    """Raises MissingPackage unless the packages can be imported; imports none of them.

    Args:
        names: names to import, such as pyarrow.
    """
    missing = [name for name in names if find_spec(name) is None]
    if missing:
        verb = "is" if len(missing) == 1 else "are"
        raise MissingPackage(f"{' and '.join(missing)} {verb} not installed; install with: {INSTALL}")
