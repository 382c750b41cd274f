"""Held-out folds: models of which each has never seen one part of the data, so that it cannot know those pairs."""

from __future__ import annotations

import ctypes
import hashlib
import logging
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from common.environment import ROOT
from common.files import write_atomically
from common.phases import begin
from common.randomness import uniform_of_text
from common.stores import Location
from search.curate.lists import write_csv
from settings import Config, ConfigError, LogConfig, MonitorConfig
from settings.load import AUTO, to_yaml
from settings.recipe import FEWEST_STEPS, Resources, auto_value, fit, value_of, with_value
from settings.schedule import total_steps
from training.saving.files import CheckpointError

FINISHED = "curate-finished"
"""File in the run folder of a fold that says what its finished training was of."""
log = logging.getLogger(__name__)

_PR_SET_PDEATHSIG = 1
_LIMITED = ("train.batch_size", "dictionary.size", "pool.size")
"""Settings of the run that may be too large for a part of its data."""


class FoldStopped(Exception):
    """The training of a fold ended before its last step.

    Args:
        status: exit status of train.py.
    """

    def __init__(self, message: str, *, status: int) -> None:
        super().__init__(message)
        self.status = status


def assign_folds(sources: Sequence[str], groups: np.ndarray, *, folds: int) -> np.ndarray:
    """Divides n samples into folds of similar size, int64 [n]; the samples of a group are never separated.

    The folds depend on nothing but the names and groups of the samples.

    Args:
        groups: int64 [n], group of each sample.
    """
    members: dict[int, list[int]] = {}
    for sample, group in enumerate(groups.tolist()):
        members.setdefault(group, []).append(sample)

    def place(group: list[int]) -> tuple[int, float]:
        return -len(group), min(uniform_of_text(f"fold {sources[sample]}") for sample in group)

    assigned, sizes = np.zeros(len(sources), dtype=np.int64), [0] * folds
    for group in sorted(members.values(), key=place):
        smallest = sizes.index(min(sizes))
        assigned[group] = smallest
        sizes[smallest] += len(group)
    return assigned


def fold_config(config: Config, *, shards: Location, folder: Path, leave_out: Path, samples: int, steps: int) -> Config:
    """The configuration of the run of a fold: that of the run, on all splits without the fold.

    Args:
        folder: the run folder of the fold.
        leave_out: list of the fold's samples.
        samples: number of the other samples.
        steps: length of the training; 0 keeps the epochs of the run, but makes them at least FEWEST_STEPS steps.
    """
    data = config.data.without_split(
        path=str(shards), loader="dali", labels="", leave_out=str(leave_out), idle_priority=config.data.idle_priority
    )
    config = replace(config, run_dir=str(folder), data=data, monitor=MonitorConfig(), log=LogConfig())
    for key in _LIMITED:
        own = value_of(config, key)
        if own != AUTO:
            config = with_value(config, key, min(own, auto_value(config, key, Resources(samples))))
    # A short run, as of the quickstart, knows enough to be of use, but too little to judge single pairs.
    steps = steps or (FEWEST_STEPS if _length(config, samples) < FEWEST_STEPS else 0)
    if steps:
        config = replace(config, train=replace(config.train, steps=steps, epochs=AUTO))
    return config


def _length(config: Config, samples: int) -> int:
    """Number of steps that a run takes on this number of samples."""
    resources = Resources(samples)
    fitted, _ = fit(config, resources)
    return total_steps(fitted, resources.clips(fitted) // fitted.train.batch_size)


def train_folds(
    config: Config,
    sources: Sequence[str],
    assigned: np.ndarray,
    *,
    shards: Location,
    fingerprint: str,
    out: Path,
    folds: int,
    steps: int,
) -> list[Path]:
    """Trains a model per fold by train.py, which resumes what an earlier call has begun; returns the run folders.

    Args:
        sources: [n] names of the samples.
        assigned: int64 [n], the fold of each sample.
        fingerprint: identifies the data set in `shards`.
        out: folder for the run folders 0, 1, ..., their lists and their settings.
        steps: length of each training; 0 means that of fold_config.

    Raises:
        ConfigError: a fold's training is refused; train.py has said why.
        FoldStopped: it was asked to stop.
        OSError: `out` cannot be written.
    """
    out.mkdir(parents=True, exist_ok=True)
    if config.model.init:
        log.warning(
            "the models of the folds start from model.init=%s: pairs that it was trained on are not held out",
            config.model.init,
        )
    folders = []
    for fold in range(folds):
        folder, listed, settings = out / f"{fold}", out / f"{fold}.csv", out / f"{fold}.yaml"
        left_out = np.flatnonzero(assigned == fold)
        write_csv(listed, ["source"], ([sources[sample]] for sample in left_out.tolist()))
        fitted = fold_config(
            config, shards=shards, folder=folder, leave_out=listed, samples=len(sources) - len(left_out), steps=steps
        )
        write_atomically(settings, to_yaml(fitted))
        work = hashlib.sha256(settings.read_bytes() + listed.read_bytes() + fingerprint.encode()).hexdigest()
        if not _is_finished(folder, work):
            begin(f"training without fold {fold + 1} of {folds}")
            _train(settings, folder)
            write_atomically(folder / FINISHED, work)
        folders.append(folder)
    return folders


def _is_finished(folder: Path, work: str) -> bool:
    """Whether the training of a fold has ended, with the same settings, list and data."""
    try:
        return (folder / FINISHED).read_text(encoding="utf-8") == work
    except (OSError, ValueError):
        return False


def _train(settings: Path, folder: Path) -> None:
    line = [sys.executable, str(ROOT / "train.py"), "--config", str(settings.resolve()), "--resume", "auto"]
    done = subprocess.run(line, preexec_fn=_stop_with_parent)
    if done.returncode == 2:
        raise ConfigError(
            f"the training of {folder} failed (see above); if RUN, the data or the settings have changed since it "
            f"began, remove {folder.parent}"
        )
    if done.returncode:
        raise FoldStopped(
            f"the training of {folder} has stopped; the same command resumes it", status=abs(done.returncode)
        )
    if not any((folder / "checkpoints").glob("step-*.pt")):
        raise CheckpointError(f"{folder} holds no checkpoint, although its training has ended")


def _stop_with_parent() -> None:
    """Lets the kernel send SIGTERM to train.py, which then saves a checkpoint, when this process ends."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
