"""Runs a trial on prepared shards: train.py and evaluate.py in subprocesses, as a user starts them."""

from __future__ import annotations

import json
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from common.environment import ROOT
from common.finite import NotFiniteError
from evaluation.report import result_path
from settings import Config, ConfigError
from settings.load import to_yaml


def run_in_subprocesses(
    config: Config, *, shards: Path, labels: Sequence[str], probe: Sequence[str], keep: Path | None = None
) -> dict[str, Any]:
    """Trains on the shards and probes the video features of the checkpoint.

    Args:
        labels: columns to predict.
        probe: key=value settings of evaluate.py's protocol `linear`.
        keep: folder that keeps the run folder; None deletes it.

    Returns:
        final: probe (mean video accuracy over the labels), probe_LABEL, random_LABEL (the same for an encoder with
        random weights), step, loss, cpu_seconds and wall_seconds (of train.py); curve: a list that holds only `final`.

    Raises:
        NotFiniteError: the trial has diverged.
        ConfigError: train.py or evaluate.py failed; the message ends with the last lines of its output.
    """
    with tempfile.TemporaryDirectory(prefix="experiment-") as folder:
        run = Path(folder) / "run"
        settings = Path(folder) / "config.yaml"
        on_shards = replace(config, run_dir=str(run), data=replace(config.data, path=str(shards)))
        settings.write_text(to_yaml(on_shards), encoding="utf-8")
        before, started = _children_seconds(), time.perf_counter()
        _start(["train.py", "--config", str(settings)])
        spent = {"cpu_seconds": _children_seconds() - before, "wall_seconds": time.perf_counter() - started}
        protocol = ["--protocol", "linear", "--data", str(shards), "--label", ",".join(labels)]
        _start(["evaluate.py", "--checkpoint", str(run), *protocol, *probe])
        lines = map(json.loads, (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
        *_, last = (line for line in lines if "loss" in line)  # the monitor's lines have no loss
        final: dict[str, Any] = {"step": last["step"], "loss": last["loss"], **spent}
        for label in labels:
            table = json.loads(result_path(run, f"linear-{label}").read_text(encoding="utf-8"))
            found = {row["encoder"]: row["accuracy"] for row in table["rows"] if row["modality"] == "video"}
            final |= {f"probe_{label}": found["pre-trained"], f"random_{label}": found["random-initialised"]}
        if keep is not None:
            shutil.copytree(run, keep, dirs_exist_ok=True)
    final["probe"] = sum(final[f"probe_{label}"] for label in labels) / len(labels)
    return {"curve": [final], "final": final}


def _start(command: list[str]) -> None:
    done = subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        tail = "\n".join((done.stdout + done.stderr).splitlines()[-8:])
        # Both commands end with status 2 whatever is wrong; only divergence concerns this trial alone.
        if diverged := re.search(r"^(train|evaluate)\.py: .*\bfinite\b.*", done.stderr, re.MULTILINE):
            raise NotFiniteError(diverged[0])
        raise ConfigError(f"{command[0]} ended with status {done.returncode}:\n{tail}")


def _children_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime
