"""Where a new run takes its weights from; nothing here needs torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

from settings import Config, ConfigError, ModelConfig
from settings.load import format_value
from training.saving.files import checkpoint_files

DESCRIPTION = "config.json"
"""File by which a folder that export.py has written is recognised."""
MODALITIES = ("video", "audio")


class Source(NamedTuple):
    """Where an encoder's first weights come from."""

    key: str
    """The setting, such as model.init_video."""
    path: Path

    def __str__(self) -> str:
        return f"{self.key}={str(self.path)!r}"

    @property
    def is_export(self) -> bool:
        """Whether it is a folder that export.py has written."""
        return self.path.is_dir() and (self.path / DESCRIPTION).exists()


def sources(model: ModelConfig) -> dict[str, Source]:
    """Returns the source of each encoder that does not start from random weights, by modality."""
    found: dict[str, Source] = {}
    for modality in MODALITIES:
        for key in (f"init_{modality}", "init"):
            if getattr(model, key):
                found.setdefault(modality, Source(f"model.{key}", Path(getattr(model, key))))
    return found


def is_new(run_dir: Path, *, resume: str) -> bool:
    """Whether a run starts, and does not continue from a checkpoint."""
    return resume == "never" or (resume == "auto" and not checkpoint_files(run_dir / "checkpoints"))


def check_sources(config: Config) -> None:
    """Raises ConfigError if a source is missing, is a folder of something else, or names another architecture."""
    for modality, source in sources(config.model).items():
        if source.is_export:
            exported_file(source, modality, architecture=getattr(config.model, modality))
        elif not source.path.is_file() and not checkpoint_files(source.path / "checkpoints"):
            raise ConfigError(
                f"{source} is neither a run folder with checkpoints, nor a folder that export.py has written, nor a "
                "file: give one of these"
            )


def exported_file(source: Source, modality: str, *, architecture: str) -> Path:
    """Returns the file of an encoder in a folder that export.py has written.

    Raises:
        ConfigError: the folder does not describe such an encoder, or one of another architecture.
    """
    path = source.path / DESCRIPTION
    try:
        about: Any = json.loads(path.read_text(encoding="utf-8"))[modality]
        found, name = about["architecture"], about["files"]["safetensors"]
        if Path(name).name != name:
            raise ValueError("a file name with folders")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ConfigError(
            f"{source}: {path.name} there does not describe the {modality} encoder as export.py does "
            f"({type(error).__name__}): export the run again"
        ) from None
    require_architecture(source, modality, found, architecture)
    return source.path / name


def require_architecture(source: Source, modality: str, found: Any, wanted: str) -> None:
    """Raises ConfigError if the encoder there has another architecture than that of this run."""
    if found != wanted:
        raise ConfigError(
            f"{source} holds a {modality} encoder of the architecture {format_value(found)}, but this run has "
            f"model.{modality}={wanted}: set that to the same, or start from other weights"
        )
