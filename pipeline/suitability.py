"""Whether a data set suits a run, from its meta.json alone: neither NumPy nor torch is needed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from common.stores import location
from pipeline.plan.leave_out import read_leave_out
from pipeline.shards.meta import check_shards, read_meta
from settings import Config, ConfigError
from settings.load import format_names


def check_training_data(config: Config) -> int:
    """Checks the data set that `config` trains on; of raw videos (data.loader=decord) only that there is a folder.

    Returns:
        The number of samples, in all splits; 0 for raw videos.

    Raises:
        ConfigError: there is no data set, or it does not suit the settings.
        ManifestError: the data set is damaged or incomplete.
    """
    root = location(config.data.path)
    if not config.data.path:
        raise ConfigError("data.path must be set to the folder that pipeline.prepare has written: data.path=FOLDER")
    if config.data.leave_out:
        read_leave_out(Path(config.data.leave_out))
    if config.data.loader != "dali":
        return 0
    meta = read_meta(root)
    check_shards(root, meta)
    check_sample_rate(config, meta["sample_rate"])
    check_split_column(config.data.split, meta["label_columns"])
    if meta["streams"] != "both":
        raise ConfigError(
            f"training needs video and audio, but {root} holds only {meta['streams']}: prepare the data with "
            "streams=both"
        )
    return meta["samples"]


def check_sample_rate(config: Config, sample_rate: int) -> None:
    """Raises ConfigError unless the data set has the sample rate (Hz) of the settings."""
    if sample_rate != config.audio.sample_rate:
        raise ConfigError(
            f"audio.sample_rate={config.audio.sample_rate} but {config.data.path} was prepared at "
            f"{sample_rate} Hz: set audio.sample_rate to that, or prepare again"
        )


def check_split_column(split: str, columns: Sequence[str]) -> None:
    """Raises ConfigError if data.split is set and the data set has no label column `split`."""
    if split and "split" not in columns:
        raise ConfigError(f"data.split={split!r} needs a label column named split; there are: {format_names(columns)}")
