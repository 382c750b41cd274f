"""Lists of samples that are left out of training (data.leave_out) or of preparation, by their sources."""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from common.terminal import printable
from settings.errors import ConfigError

if TYPE_CHECKING:
    import numpy as np

COLUMN = "source"
"""Column of a CSV list that holds the sources."""
SHOWN = 3
"""Number of sources that an error names."""


def read_leave_out(path: Path) -> list[str]:
    """Reads a list of sources: a CSV file with a column `source`, or a text file with one source per line.

    Args:
        path: a file in UTF-8; of a CSV file, the first line names the columns.

    Returns:
        The distinct sources, in the order of the list.

    Raises:
        ConfigError: the file cannot be read, is not UTF-8 or names no source.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
        first, _, rest = text.partition("\n")
        columns = next(csv.reader([first.strip()], strict=True), [])
        if COLUMN in columns:
            place = columns.index(COLUMN)
            rows = csv.reader(io.StringIO(rest, newline=""), strict=True)
            found = [row[place] for row in rows if len(row) > place]
        else:
            found = [line.removesuffix("\r") for line in text.split("\n")]
    except OSError as error:
        raise ConfigError(f"cannot read the list of samples to leave out, {path}: {error.strerror}") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(
            f"{path} is neither a UTF-8 CSV file with a column {COLUMN} nor a text file: {error}"
        ) from None
    sources = list(dict.fromkeys(source for source in found if source))
    if not sources and COLUMN not in columns:
        raise ConfigError(
            f"{path} names no sample to leave out: it must hold one source per line, or be a CSV file with a column "
            f"{COLUMN}"
        )
    return sources


def require_known(sources: Iterable[str], known: Iterable[str], *, path: Path, data: str | Path) -> None:
    """Raises ConfigError if one of the `sources` of the list `path` is not in `known`, the sources of `data`."""
    have = set(known)
    _require_none([source for source in sources if source not in have], path=path, data=data)


def _require_none(unknown: list[str], *, path: Path, data: str | Path) -> None:
    if unknown:
        raise ConfigError(
            f"{path} leaves out samples that {data} does not have: {some_of(unknown)}; remove them from the list, or "
            "use the list of this data set"
        )


def some_of(sources: Sequence[str], *, count: int | None = None) -> str:
    """Formats the first few of `sources`, and the number of the others, for a message.

    Args:
        count: number of all sources, if `sources` are only the first ones.
    """
    others = (len(sources) if count is None else count) - SHOWN
    more = f" and {others} more" if others > 0 else ""
    return ", ".join(printable(repr(source)) for source in sources[:SHOWN]) + more


def find_left_out(rows: Callable[[list[str]], np.ndarray], path: Path, *, data: str | Path) -> tuple[np.ndarray, str]:
    """Finds the samples that the list `path` leaves out.

    Args:
        rows: returns the id of the sample with each of some sources, int64, or -1.
        data: names the data set in errors.

    Returns:
        (int64 [left out], the ids in ascending order; a hash of the sources in the list, whatever their order).

    Raises:
        ConfigError: the list cannot be used, or names a source that no sample has.
    """
    import numpy as np  # not at the top: the command line checks the list before NumPy is needed

    listed = read_leave_out(path)
    ids = rows(listed)
    _require_none([listed[place] for place in np.flatnonzero(ids < 0)], path=path, data=data)
    digest = hashlib.blake2b("\0".join(sorted(listed)).encode("utf-8", "surrogateescape"), digest_size=16)
    return np.sort(ids), digest.hexdigest()
