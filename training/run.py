"""The run folder: what was run, with what, and where to go on."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from config import Config, ConfigError, to_dict, to_yaml
from training.checkpoint import CheckpointError, CheckpointStore, find, read, require_same_config
from training.distributed import World, from_main

ROOT = Path(__file__).resolve().parent.parent


def find_start(config: Config, *, resume: str, store: CheckpointStore, world: World) -> Path | None:
    """The checkpoint to go on from, chosen by rank 0 for all; None to start anew.

    Args:
        resume: "auto" (the newest whole one of the run folder, if any), "never", or a path.

    Raises:
        ConfigError: "never", but the run folder already holds a run.
        CheckpointError: a path that leads to no checkpoint.
    """
    answer: tuple[str, str | None] = ("path", None)
    if world.is_main:
        # An error must reach every rank: one that died here alone would leave the others waiting.
        try:
            chosen = store.newest() if resume in ("auto", "never") else find(resume)
            answer = ("path", str(chosen) if chosen else None)
        except CheckpointError as error:
            answer = ("error", str(error))
    kind, text = from_main(answer)  # type: ignore[misc]
    if kind == "error":
        raise CheckpointError(text)
    if resume == "never" and text is not None:
        raise ConfigError(
            f"{config.run_dir} already holds a run (up to {Path(text).name}): go on with --resume auto, "
            "or choose another run_dir=..."
        )
    return Path(text) if text else None


def load_start(path: Path, config: Config, *, fingerprint: str, device: torch.device) -> dict[str, Any]:
    """The checkpoint's state, once it is sure that it continues this very run.

    Raises:
        ConfigError: made with another configuration or from other data.
        CheckpointError: unreadable here, as when nodes do not share the run folder.
    """
    state = read(path, device=device)
    require_same_config(state["config"], config, path)
    if state["data"] != fingerprint:
        raise ConfigError(
            f"{path} was trained on other data than {config.data.path} now holds (the manifests differ): "
            "give the same shards, or start anew with another run_dir"
        )
    return state


def write_run_files(config: Config, run_dir: Path) -> None:
    """`config.yaml` (resolved) and `environment.json` (command, git revision, versions, hardware)."""
    (run_dir / "config.yaml").write_text(to_yaml(config))
    (run_dir / "environment.json").write_text(json.dumps(environment(), indent=2) + "\n")


def environment() -> dict[str, Any]:
    """What made a result: command, code, versions, hardware."""
    packages = ("torch", "torchvision", "torchaudio", "nvidia-dali-cuda130", "faiss-gpu", "numpy")
    return {
        "command": sys.argv,
        "git": _git("rev-parse", "HEAD"),
        "git_dirty": bool(_git("status", "--porcelain")),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in packages},
        "machine": platform.machine(),
        "processor": _processor(),
        "cores": torch.get_num_threads(),
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
    }


def save_state(config: Config, learner_state: dict[str, Any], *, fingerprint: str) -> dict[str, Any]:
    """What goes into a checkpoint beside its step and format."""
    return {"config": to_dict(config), "data": fingerprint, **learner_state}


def _git(*arguments: str) -> str:
    try:
        result = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return result.stdout.strip()


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor()
