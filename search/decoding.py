"""How search decodes files of any format: a query like a file of the index, so that their vectors agree."""

from __future__ import annotations

from settings import Config, StorageConfig

MAX_PIXELS = 8192 * 8192
"""Largest width times height of a picture or a frame of a query or a result."""
MEMORY_MB = 2048
"""Address space in MiB that a worker may use for such a file, in addition to what it already occupies."""


def storage_of(config: Config) -> StorageConfig:
    """How frames are stored before encoding: as JPEG of high quality, somewhat larger than the clips."""
    short_side = max(16, 2 * round(config.clip.size * 1.25 / 2))
    return StorageConfig(codec="jpeg", fps=config.clip.fps, short_side=short_side, quality=2)
