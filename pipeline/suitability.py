"""Whether a data set suits a run, from its meta.json alone: neither NumPy nor torch is needed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from common.stores import location
from pipeline.plan.leave_out import read_leave_out
from pipeline.plan.weights import check_weights
from pipeline.shards.meta import check_shards, read_meta
from settings import Config, ConfigError, MixedSetConfig
from settings.load import format_names


def check_training_data(config: Config) -> int:
    """Checks the data that `config` trains on; of raw videos (data.loader=decord) only that there is a folder.

    Returns:
        The number of samples, in all splits; 0 for raw videos.

    Raises:
        ConfigError: there is no data set, or it does not suit the settings.
        ManifestError: a data set is damaged or incomplete.
    """
    if not config.data.mix and not config.data.path:
        raise ConfigError("data.path must be set to the folder that pipeline.prepare has written: data.path=FOLDER")
    return sum(_check_set(config, key, one) for key, one in config.data.sets.items())


def _check_set(config: Config, key: str, one: MixedSetConfig) -> int:
    """Checks one data set, whose settings begin with `key`; returns its number of samples, 0 for raw videos."""
    root = location(one.path)
    if one.leave_out:
        read_leave_out(Path(one.leave_out))
    if config.data.loader != "dali":
        return 0
    meta = read_meta(root)
    check_shards(root, meta)
    check_sample_rate(config, meta["sample_rate"], data=one.path)
    check_split_column(one.split, meta["label_columns"], key=key)
    check_weights(one.weights, meta["label_columns"], key=f"{key}weights")
    if meta["streams"] != "both":
        raise ConfigError(
            f"training needs video and audio, but {root} holds only {meta['streams']}: prepare the data with "
            "streams=both"
        )
    return meta["samples"]


def check_sample_rate(config: Config, sample_rate: int, *, data: str) -> None:
    """Raises ConfigError unless the data set at `data` has the sample rate (Hz) of the settings."""
    if sample_rate != config.audio.sample_rate:
        raise ConfigError(
            f"audio.sample_rate={config.audio.sample_rate} but {data} was prepared at {sample_rate} Hz: set "
            "audio.sample_rate to that, or prepare again"
        )


def check_split_column(split: str, columns: Sequence[str], *, key: str = "data.") -> None:
    """Raises ConfigError if `split` is set and the data set has no label column `split`.

    Args:
        key: prefix of the settings of the data set.
    """
    if split and "split" not in columns:
        raise ConfigError(f"{key}split={split!r} needs a label column named split; there are: {format_names(columns)}")
