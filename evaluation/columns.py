"""Which label columns and samples an evaluation may use, by names alone: neither NumPy nor torch is needed."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Protocol

from settings import ConfigError
from settings.evaluation import EvaluationConfig
from settings.load import format_names

SPLIT_COLUMN = "split"


class Labelled(Protocol):
    """Anything that has label columns."""

    label_columns: list[str]


@dataclass
class Columns:
    """The label columns of a data set."""

    label_columns: list[str]


def predicts_a_label(protocol: str, label: str | None) -> bool:
    """Whether the protocol predicts label columns, which --label may name; esc50 has its own, retrieval needs none."""
    return not protocol.startswith("esc50") and (protocol != "retrieval" or label is not None)


def check_split(protocol: str, label: str | None, settings: EvaluationConfig) -> None:
    """Raises ConfigError if the setting split asks for samples that the protocol has to fit on."""
    if settings.split != "auto" and (protocol != "retrieval" or label is not None or settings.splits):
        raise ConfigError(
            f"split={settings.split} is only for --protocol retrieval without --label and splits, which fits nothing; "
            f"--protocol {protocol} {'with a label ' if protocol == 'retrieval' else ''}needs a training part as well"
        )


def choose_labels(data: Labelled, wanted: str | None) -> list[str]:
    """The columns of `--label a,b`; without the option, the only label column of the data set.

    A value that is itself the name of a column is not split at its commas.

    Raises:
        ConfigError: the option is missing, and the data set does not have exactly one label column.
    """
    if wanted in data.label_columns:
        return [wanted]
    if wanted is not None:
        return list(dict.fromkeys(name.strip() for name in wanted.split(",") if name.strip()))
    columns = predicted_columns(data)
    if len(columns) != 1:
        raise ConfigError(f"choose what to predict with --label: the data set has {_listing(columns)}")
    return columns


def require_label(data: Labelled, label: str) -> None:
    """Raises ConfigError if the data set has no column `label` that can be predicted."""
    columns = predicted_columns(data)
    if label not in columns:
        raise ConfigError(f"--label {label}: the data set has no such label column; it has {_listing(columns)}")


def predicted_columns(data: Labelled) -> list[str]:
    """The columns that can be predicted: all but those that name splits."""
    return [column for column in data.label_columns if not is_split(column)]


def is_split(column: str) -> bool:
    """Whether the column is `split`, `split2`, `split3`, ..."""
    return re.fullmatch(rf"{SPLIT_COLUMN}\d*", column) is not None


def _listing(columns: list[str]) -> str:
    return f"the label columns {format_names(columns)}" if columns else "no label columns"
