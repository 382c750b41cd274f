"""Weights of samples (data.weights): a label column, or a CSV file with the columns source and weight."""

from __future__ import annotations

import csv
import hashlib
import io
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from common.terminal import printable
from pipeline.plan.leave_out import SHOWN, some_of
from settings.errors import ConfigError
from settings.load import format_names, format_value

if TYPE_CHECKING:
    import numpy as np

COLUMNS = ("source", "weight")
"""Columns that a file must have; others are ignored."""


def is_file(weights: str) -> bool:
    """Whether data.weights names a file, not a label column."""
    return weights.endswith(".csv")


def check_weights(weights: str, columns: Sequence[str], *, key: str) -> None:
    """Checks what can be checked without the samples.

    Args:
        weights: value of the setting; empty without weights.
        columns: the label columns of the data set.
        key: name of the setting, for messages.

    Raises:
        ConfigError: there is no such column, or the file cannot be read.
    """
    if is_file(weights):
        read_weights(Path(weights), key=key)
    elif weights and weights not in columns:
        raise ConfigError(
            f"{key}={weights!r} is neither a label column (there are: {format_names(columns)}) nor a CSV file, whose "
            "name must end in .csv"
        )


def read_weights(path: Path, *, key: str) -> dict[str, float]:
    """Reads a CSV file with the columns `source` and `weight`, in UTF-8.

    Raises:
        ConfigError: it cannot be read, lacks a column, gives a source two different weights, or has a weight that is
            not a finite number of at least 0.
    """
    try:
        rows = csv.reader(io.StringIO(path.read_bytes().decode("utf-8-sig"), newline=""), strict=True)
        columns = next(rows, [])
        missing = [column for column in COLUMNS if column not in columns]
        if missing:
            found = f"it has: {format_names(columns)}"
            raise ConfigError(f"{key}: {path} needs a column {' and a column '.join(missing)}; {found}")
        places = [columns.index(column) for column in COLUMNS]
        pairs = [[row[place] for place in places] for row in rows if len(row) > max(places)]
    except OSError as error:
        raise ConfigError(f"{key}: cannot read the weights {path}: {error.strerror}") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"{key}: {path} is not a CSV file in UTF-8: {error}") from None
    weights: dict[str, float] = {}
    for source, text in pairs:
        weight = _number(text, f"{key}: {path} gives {printable(repr(source))} the weight")
        if weights.setdefault(source, weight) != weight:
            raise ConfigError(f"{key}: {path} gives {printable(repr(source))} two different weights: remove one")
    return weights


def weights_of_file(
    path: Path,
    ids: np.ndarray,
    *,
    rows: Callable[[list[str]], np.ndarray],
    source: Callable[[int], str],
    key: str,
    data: str,
) -> np.ndarray:
    """Returns the weight of each of the samples `ids`, float64 [n], from a file.

    Args:
        ids: int64 [n], in ascending order.
        rows: returns, for each of some sources, the id of its sample, int64; -1 if the data set has none.
        source: returns the source of a sample.
        data: names the data set in messages.

    Raises:
        ConfigError: as for `read_weights`; the file names a source that the data set does not have, or lacks a sample.
    """
    import numpy as np  # not at the top: the command line checks a file before NumPy is needed

    listed = read_weights(path, key=key)
    sources, found = list(listed), rows(list(listed))
    unknown = [sources[row] for row in np.flatnonzero(found < 0)]
    if unknown:
        raise ConfigError(
            f"{key}: {path} gives weights to samples that {data} does not have: {some_of(unknown)}; remove these "
            "lines, or use the file that belongs to this data set"
        )
    missing = np.setdiff1d(ids, found)
    if len(missing):
        first = some_of([source(int(i)) for i in missing[:SHOWN]], count=len(missing))
        raise ConfigError(
            f"{key}: {path} gives no weight to {len(missing)} samples of {data}: {first}; add them, with the weight 0 "
            "to leave them out"
        )
    order = np.argsort(found)
    return np.array(list(listed.values()))[order[np.searchsorted(found[order], ids)]]


def weights_of_labels(codes: np.ndarray, names: Sequence[str], source: Callable[[int], str], *, key: str) -> np.ndarray:
    """Returns the weight of each sample, float64 [n], from its label.

    Args:
        codes: int [n], indices into `names`; -1 for a sample without a label.
        names: the labels.
        source: returns the source of a sample from its row in `codes`; for messages.
        key: the setting and its value, for messages.

    Raises:
        ConfigError: a sample has no label, or its label is not a finite number of at least 0.
    """
    import numpy as np

    missing = np.flatnonzero(codes < 0)
    if len(missing):
        raise ConfigError(
            f"{key}: {len(missing)} of {len(codes)} samples have no label in this column: "
            f"{some_of([source(int(row)) for row in missing[:SHOWN]], count=len(missing))}; attach their weights with "
            "pipeline.labels, with 0 to leave them out"
        )
    values = np.zeros(len(names))
    for code in np.unique(codes).tolist():
        first = printable(repr(source(int(np.argmax(codes == code)))))
        values[code] = _number(names[code], f"{key} gives {first} the weight")
    return values[codes]


def require_some(weights: np.ndarray, *, key: str) -> None:
    """Raises ConfigError if there is no weight above 0."""
    if not (weights > 0).any():
        raise ConfigError(f"{key}: all {len(weights)} samples have the weight 0: at least one weight must be above 0")


def digest_of(weights: np.ndarray) -> str:
    """Returns a hash of the weights of the samples, float64 [n]."""
    return hashlib.blake2b(weights.tobytes(), digest_size=16).hexdigest()


def _number(text: str, what: str) -> float:
    """Returns the weight that `text` gives; `what` begins the message of the error."""
    try:
        value = float(text)
    except ValueError:
        raise ConfigError(f"{what} {format_value(text)}, which is not a number") from None
    if not math.isfinite(value) or value < 0:
        raise ConfigError(f"{what} {text.strip()}: weights must be finite and at least 0")
    return value
