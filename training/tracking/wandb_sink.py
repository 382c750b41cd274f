"""Sends a run's metrics to Weights & Biases if log.wandb is set."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from uuid import uuid4

from settings import Config, ConfigError, to_dict

log = logging.getLogger(__name__)


class WandbSink:
    """One W&B run per run folder, however often the run is stopped and resumed.

    wandb sends from its own process, so `write` only queues the numbers. After a failure, which is logged once, nothing
    more is sent; metrics.jsonl has all numbers in any case.

    Args:
        run_dir: holds `wandb_run_id` and wandb's own files.
        config: log.wandb_project names the project; W&B shows all settings with the run.

    Raises:
        ConfigError: wandb is not installed or does not start (not logged in, no network).
    """

    def __init__(self, run_dir: Path, config: Config) -> None:
        try:
            import wandb  # imported only if it is used, because it is not among the requirements
        except ImportError:
            raise ConfigError(
                "log.wandb=true needs the package wandb, which is not installed: pip install wandb, "
                "or set log.wandb=false (metrics.jsonl and TensorBoard are always written)"
            ) from None
        id_path = run_dir / "wandb_run_id"
        if not id_path.exists():
            id_path.write_text(uuid4().hex)
        try:
            self._run: Any = wandb.init(
                project=config.log.wandb_project,
                name=run_dir.name,
                dir=str(run_dir),
                id=id_path.read_text().strip(),
                resume="allow",
                config=to_dict(config),
            )
        except Exception as error:  # wandb raises its own types, which cannot be named without importing it
            raise ConfigError(
                f"log.wandb=true, but Weights & Biases did not start ({error}): run `wandb login`, "
                "set WANDB_MODE=offline to send the numbers later, or set log.wandb=false"
            ) from error

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        # After a resume W&B ignores steps that it already has, which is correct: their numbers are the same.
        if self._run is None:
            return
        try:
            self._run.log(dict(metrics), step=step)
        except Exception as error:
            log.warning("Weights & Biases failed (%s); the run continues, and metrics.jsonl has all numbers", error)
            self._run = None

    def close(self) -> None:
        if self._run is not None:
            self._run.finish()
