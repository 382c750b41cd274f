"""Checkpoints: tensors and plain values, written atomically in the background."""

from __future__ import annotations

import logging
import os
import re
import threading
import time
from pathlib import Path
from typing import Any

import torch

from common.files import replacing, write_atomically
from common.trees import flatten
from model.encoder import CrossModalModel, build_model
from settings import Config, ConfigError, from_dict, to_dict
from settings.load import format_value
from training.saving.choose import DAMAGED, find, newest
from training.saving.contents import is_finite, load
from training.saving.files import (
    CheckpointError,
    DamagedCheckpoint,
    checkpoint_files,
    checksum_path,
    file_name,
    set_aside,
    verify,
)
from training.saving.writing import HashingFile, saved_bytes

FORMAT = 1
RETRY_SECONDS = (1.0, 2.0, 4.0)
"""Pauses, in seconds, before each new attempt to write a run's last checkpoint."""
LONGEST_PAUSE = 60.0
"""Longest pause in seconds before training saves again after a failed write."""
# Settings that may differ when a run is resumed: they affect where and how fast it computes and what it records, but
# not what it trains, except for rounding. An entry that ends in a dot stands for a whole section. data.path,
# data.leave_out and data.weights only name what is trained on; training/resume.py compares the contents.
FREE_KEYS = (
    "run_dir",
    "data.path",
    "data.cache_dir",
    "data.cache_gb",
    "data.leave_out",
    "data.weights",
    "data.threads",
    "data.prefetch",
    "data.idle_priority",
    "data.max_bad_fraction",
    "train.device",
    "train.threads",
    "train.timeout_seconds",
    "train.log_every",
    "checkpoint.",
    "log.",
    "monitor.",
)
_FREE_IN_MIX = re.compile(r"data\.mix\.[^.]+\.(path|leave_out|weights)")
"""The same, for the data sets of a mix."""

log = logging.getLogger(__name__)
__all__ = [
    "CheckpointError",
    "CheckpointStore",
    "find",
    "load_model",
    "model_of",
    "read",
    "require_same_config",
    "saved_bytes",
    "verify",
]


class _NotFinite(ValueError):
    """The state to be saved holds weights or an optimiser state that are not finite."""


class CheckpointStore:
    """The folder `run/checkpoints`: `step-N.pt` with `step-N.pt.sha256` (as sha256sum writes it).

    Args:
        folder: the folder; it is created if missing.
        keep: number of newest complete checkpoints to keep; damaged ones do not count.
        milestone_every: checkpoints at multiples of this many steps are never deleted; 0 for none.
    """

    def __init__(self, folder: Path, *, keep: int, milestone_every: int = 0) -> None:
        self.folder, self.keep, self.milestone_every = folder, keep, milestone_every
        self._writer: threading.Thread | None = None
        self._unwritten: tuple[dict[str, Any], int] | None = None
        self._failures, self._try_again_at = 0, 0.0
        self._error: Exception | None = None
        self._verified: dict[str, tuple[int, int, int]] = {}
        """Identity of each checkpoint (by name) when it was last found complete."""
        folder.mkdir(parents=True, exist_ok=True)

    def save(self, state: dict[str, Any], *, step: int, prune: bool = True) -> None:
        """Copies `state`, waits for any pending write, then writes the copy in the background.

        If it cannot be written (a full disk, weights that are not finite), a warning says so, the earlier checkpoints
        stay untouched, and `wants_retry` becomes true: at once the first time, and after a pause if writing fails
        repeatedly.

        Args:
            prune: whether to delete the checkpoints that are older than the newest `keep`.
        """
        self._unwritten = None  # frees the memory of a state that could not be written
        snapshot = _copy_to_cpu({"format": FORMAT, "step": step, **state})
        self.wait()
        self._writer = threading.Thread(target=self._write, args=(snapshot, step, prune), name="checkpoint-writer")
        self._writer.start()

    def wait(self) -> None:
        """Waits until no write is pending."""
        if self._writer is not None:
            self._writer.join()
            self._writer = None

    @property
    def wants_retry(self) -> bool:
        """Whether the last write failed and it is time to save again."""
        return self._unwritten is not None and time.monotonic() >= self._try_again_at

    def finish(self) -> None:
        """Waits until the last checkpoint is on disk; tries again a few times if it could not be written.

        Raises:
            CheckpointError: it cannot be written; the message names the newest checkpoint that can be used.
        """
        self.wait()
        for seconds in RETRY_SECONDS:
            if self._unwritten is None or isinstance(self._error, _NotFinite):
                break
            time.sleep(seconds)
            self._write(*self._unwritten, True)
        if self._unwritten is not None:
            chosen, _ = newest(self.folder)
            usable = f"the newest usable checkpoint is {chosen}" if chosen else "there is no usable checkpoint"
            raise CheckpointError(
                f"the last checkpoint {self.folder / file_name(self._unwritten[1])} could not be written (failed "
                f"attempts since the last success: {self._failures}): {self._error}; {usable}. Fix the cause, then "
                "resume with --resume auto"
            )

    def newest(self) -> Path | None:
        """Returns the checkpoint to resume from, or None; warns of those that cannot be used."""
        return newest(self.folder)[0]

    def _write(self, state: dict[str, Any], step: int, prune: bool) -> None:
        path = self.folder / file_name(step)
        try:
            if not is_finite(state):
                raise _NotFinite("the weights or the optimiser state are not finite")
            self._remove_unfinished()
            with replacing(path, durable=True) as unfinished:
                with unfinished.open("wb") as file:
                    hashing = HashingFile(file)
                    hashing.save(state)
                # Written before the checkpoint gets its final name, so that no checkpoint is without its checksum.
                write_atomically(checksum_path(path), f"{hashing.digest}  {path.name}\n", durable=True)
        except Exception as error:  # any error would otherwise end only this thread, unnoticed
            self._unwritten, self._error = (state, step), error
            self._try_again_at = time.monotonic() + min(10.0 * self._failures, LONGEST_PAUSE)
            self._failures += 1
            log.warning(
                "could not write the checkpoint %s: %s; earlier checkpoints are kept, and if training continues, it "
                "will soon save again",
                path,
                error,
            )
            return
        self._unwritten, self._failures = None, 0
        self._verified[path.name] = _identity(path)
        if prune:
            self._prune(step)

    def _remove_unfinished(self) -> None:
        # Only this writer creates such files, and it writes one at a time, so any that exist are from a killed run.
        for unfinished in self.folder.glob(".*.tmp"):
            unfinished.unlink(missing_ok=True)

    def _prune(self, newest_step: int) -> None:
        complete = 0
        for step, path in checkpoint_files(self.folder):
            if step > newest_step:
                continue  # not written by this run, so it must not displace this run's checkpoints
            if complete < self.keep:
                complete += self._is_complete(path)
            elif not (self.milestone_every and step % self.milestone_every == 0):
                path.unlink(missing_ok=True)
                checksum_path(path).unlink(missing_ok=True)

    def _is_complete(self, path: Path) -> bool:
        """Returns whether a checkpoint is intact; sets a damaged one aside.

        It is verified only if it has changed since it was last verified or written.
        """
        try:
            identity = _identity(path)
            if self._verified.get(path.name) != identity:
                verify(path, named=True)
                self._verified[path.name] = identity
        except (CheckpointError, OSError) as error:
            log.warning("%s; it does not count among the checkpoints to keep", error)
            if isinstance(error, DamagedCheckpoint):
                set_aside(path, reason=DAMAGED)
            return False
        return True


def read(path: Path, *, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Verifies a checkpoint and returns its contents; only tensors and plain values are ever unpickled.

    Raises:
        CheckpointError: the file is missing, damaged, or of a format that this version does not read.
    """
    verify(path)
    state = load(path, device=device)
    found = state.get("format") if isinstance(state, dict) else None
    if found != FORMAT:
        raise CheckpointError(
            f"the checkpoint {path} has format {format_value(found)}, but this version reads format {FORMAT}"
        )
    return state


def load_model(path: str | Path) -> tuple[Config, CrossModalModel]:
    """Loads the configuration and the model (on the CPU, in eval mode) of a run folder or checkpoint file."""
    return model_of(read(find(path)), source=str(path))


def model_of(state: dict[str, Any], *, source: str) -> tuple[Config, CrossModalModel]:
    """Builds the configuration and the model from a state that `read` returned; error messages name `source`.

    Raises:
        CheckpointError, ConfigError: the state does not hold a configuration and a model that fits it.
    """
    config = from_dict(Config, state.get("config"), source=source)
    try:
        _require_shapes(config, state)
        model = build_model(config.model, audio=config.audio, seed=config.seed)
        model.load_state_dict(state["model"])
    except ConfigError as error:
        raise ConfigError(f"{source}: {error}") from None
    except (KeyError, TypeError, AttributeError, RuntimeError, ValueError, OverflowError) as error:
        found = format_value(" ".join(str(error).split()))
        raise CheckpointError(f"the checkpoint {source} holds no model that fits its configuration: {found}") from None
    return config, model.eval()


def _require_shapes(config: Config, state: dict[str, Any]) -> None:
    """Raises ValueError if the state's tensors do not fit the model, which is built without allocating its memory."""
    with torch.device("meta"):
        outline = build_model(config.model, audio=config.audio, seed=config.seed).state_dict()
    tensors = state["model"]
    for name in sorted(outline.keys() | tensors.keys()):
        wanted, found = (tuple(side[name].shape) if name in side else "absent" for side in (outline, tensors))
        if wanted != found:
            raise ValueError(f"{name} should be {wanted}, but is {found}")


def require_same_config(saved: dict[str, Any], config: Config, path: Path) -> None:
    """Raises one ConfigError that lists every setting that differs and is not covered by FREE_KEYS."""
    # A setting that was added after the checkpoint was made had, in effect, its default.
    before, now = flatten(to_dict(Config())) | flatten(saved), flatten(to_dict(config))
    differing = [
        f"  {key}: {before.get(key, '(absent)')!r} in the checkpoint, {now.get(key, '(absent)')!r} now"
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key) and not key.startswith(FREE_KEYS) and not _FREE_IN_MIX.fullmatch(key)
    ]
    if differing:
        raise ConfigError(
            f"{path} was made with different settings:\n"
            + "\n".join(differing)
            + "\nrestore these settings, or start a new run with a different run_dir"
        )


def _copy_to_cpu(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return {key: _copy_to_cpu(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_copy_to_cpu(item) for item in value)
    return value


def _identity(path: Path) -> tuple[int, int, int]:
    """Inode, size and modification time, which change when a file is replaced or modified."""
    status = os.stat(path)
    return status.st_ino, status.st_size, status.st_mtime_ns
