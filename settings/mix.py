"""Settings of the data sets of a mix (data.mix)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from common.stores.urls import check_url, is_url, split_url
from settings.errors import ConfigError, require

_NAME = re.compile(r"[A-Za-z0-9_-]{1,40}")


@dataclass(frozen=True)
class MixedSetConfig:
    """One data set of a mix."""

    path: str
    """Folder or URL of prepared shards."""
    weight: float
    """Share of the training clips that come from this data set, relative to the weights of the others."""
    split: str = ""
    """Like data.split, for this data set alone."""
    leave_out: str = ""
    """Like data.leave_out, for this data set alone."""
    weights: str = ""
    """Like data.weights, for this data set alone."""


def check_mix(mix: Mapping[str, MixedSetConfig]) -> None:
    """Raises ConfigError if a name, a path or a weight of data.mix cannot be used."""
    seen: dict[object, str] = {}
    for name, one in mix.items():
        require(
            isinstance(name, str) and bool(_NAME.fullmatch(name)),
            f"data.mix: the name {repr(name)[:60]} must be text of 1 to 40 letters, digits, _ and -, because "
            "it becomes a part of metrics and of overrides such as data.mix.NAME.weight=0.5",
        )
        require(bool(one.path), f"data.mix.{name}.path must be set to the folder that pipeline.prepare has written")
        try:
            check_url(one.path)
        except ValueError as error:
            raise ConfigError(f"data.mix.{name}.path: {error}") from None
        require(
            one.weight > 0,
            f"data.mix.{name}.weight must be greater than 0, not {one.weight}; remove a data set to train without it",
        )
        place = split_url(one.path) if is_url(one.path) else Path(one.path).absolute()
        require(
            place not in seen,
            f"data.mix.{name}.path and data.mix.{seen.get(place)}.path are the same folder, {one.path}",
        )
        seen[place] = name
