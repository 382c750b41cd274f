"""Settings of the commands in search/, which their command lines take as key=value."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from settings.errors import require


@dataclass(frozen=True)
class EmbedConfig:
    """How `python -m search.embed` cuts files into rows and clips. Encoders and clip sizes come from the run."""

    every: float = 0.0
    """Length of a row's window in seconds: each file gets one row per window. 0 means one row per file."""
    clips: int = 0
    """Number of evenly spaced clips per row, whose unit vectors are averaged; 0 means 4 per file, as in evaluation, or
    1 per window."""
    streams: Literal["both", "video", "audio"] = "both"
    """Which streams are embedded. With both, a file that lacks one gets a row without that vector."""
    batch_size: int = 32
    """Number of clips that are decoded and encoded together. Another size may change the last bits of a vector."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Device of the encoders; auto is the GPU if there is one."""
    part_rows: int = 1024
    """Number of rows per Parquet file, if SRC is prepared data. An interrupted run repeats at most this many."""
    part_files: int = 64
    """Number of files of SRC per Parquet file, if SRC is a folder of videos."""
    max_seconds: float = 600.0
    """Longest duration in seconds of a file in a folder of videos; longer files are cut, and the log names them."""
    timeout_seconds: float = 120.0
    """Time limit in seconds for decoding a file in a folder of videos; a file that exceeds it is listed as
    unreadable."""
    memory_mb: int = 4096
    """Address space in MiB that a worker process may use for decoding such a file, in addition to what it already
    occupies."""

    def __post_init__(self) -> None:
        require(
            self.every == 0 or 0.01 <= self.every <= 86400,
            f"every must be 0 or in [0.01, 86400] seconds, not {self.every}",
        )
        minima = {"clips": 0, "batch_size": 1, "part_rows": 1, "part_files": 1, "memory_mb": 256}
        for name, minimum in minima.items():
            value = getattr(self, name)
            require(value >= minimum, f"{name} must be at least {minimum}, not {value}")
        require(self.timeout_seconds > 0, f"timeout_seconds must be positive, not {self.timeout_seconds}")
        require(self.max_seconds > 0.5, f"max_seconds must be more than 0.5, not {self.max_seconds}")

    @property
    def clips_per_row(self) -> int:
        """Number of clips whose unit vectors make a row."""
        return self.clips or (1 if self.every else 4)
