"""The rejections of preparation are those of every reader of media files."""

from __future__ import annotations

from pipeline.media.rejection import RejectedSource, file_problem

__all__ = ["RejectedSource", "file_problem"]
