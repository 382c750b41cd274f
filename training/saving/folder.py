"""What a run leaves in its folder, and whether a folder is free for a new run."""

from __future__ import annotations

from pathlib import Path

from settings import ConfigError
from training.saving.files import step_of

TRACES = (
    "checkpoints/*",
    "config.yaml",
    "environment.json",
    "metrics.jsonl",
    "tensorboard",
    "profile",
    "bad_samples.jsonl",
    "not_finite-*.json",
    "evaluation-*.json",
)
"""Glob patterns of the files that a run and its evaluation write to the run folder. A tracker's id is not among them,
because it is there before a tracker fails to start; the next run may use it."""


def require_new(folder: Path) -> None:
    """Raises ConfigError if `folder` already holds anything of a run."""
    found = [path for pattern in TRACES for path in sorted(folder.glob(pattern))]
    if found:
        newest = [path for path in found if step_of(path) is not None][-1:] or found
        raise ConfigError(
            f"{folder} already holds a run (up to {newest[0].name}): resume with --resume auto, "
            "or choose a different run_dir"
        )
