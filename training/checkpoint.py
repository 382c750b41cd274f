"""Checkpoints: tensors and plain values, written atomically in the background."""

from __future__ import annotations

import hashlib
import logging
import threading
from pathlib import Path
from typing import Any, BinaryIO

import torch

from common.files import replacing, write_atomically
from common.trees import flatten
from model.encoder import CrossModalModel, build_model
from settings import Config, ConfigError, from_dict, to_dict
from settings.load import format_value

FORMAT = 1
# Settings that may differ when a run is resumed: they affect where and how fast it computes and what it records, but
# not what it trains, except for rounding. An entry that ends in a dot stands for a whole section.
FREE_KEYS = (
    "run_dir",
    "data.path",
    "data.threads",
    "data.prefetch",
    "data.idle_priority",
    "data.max_bad_fraction",
    "train.device",
    "train.threads",
    "train.log_every",
    "checkpoint.",
    "log.",
    "monitor.",
)

log = logging.getLogger(__name__)


class CheckpointError(RuntimeError):
    """Raised for a checkpoint that cannot be used; the message names the file and says what to do."""


class CheckpointStore:
    """The folder `run/checkpoints`: `step-N.pt` with `step-N.pt.sha256` (as sha256sum writes it).

    Args:
        folder: the folder; it is created if missing.
        keep: number of newest checkpoints to keep.
        milestone_every: checkpoints at multiples of this many steps are never deleted; 0 for none.
    """

    def __init__(self, folder: Path, *, keep: int, milestone_every: int = 0) -> None:
        self.folder, self.keep, self.milestone_every = folder, keep, milestone_every
        self._writer: threading.Thread | None = None
        folder.mkdir(parents=True, exist_ok=True)

    def save(self, state: dict[str, Any], *, step: int) -> None:
        """Copies `state` now and writes it in the background, after any pending write has finished.

        A disk error (full, missing) is logged and leaves the last good checkpoint untouched.
        """
        snapshot = _copy_to_cpu({"format": FORMAT, "step": step, **state})
        self.wait()
        self._writer = threading.Thread(target=self._write, args=(snapshot, step), name="checkpoint-writer")
        self._writer.start()

    def wait(self) -> None:
        """Waits until no write is pending."""
        if self._writer is not None:
            self._writer.join()
            self._writer = None

    def newest(self) -> Path | None:
        """Returns the newest complete checkpoint or None; skips damaged ones with a warning."""
        for path in sorted(self.folder.glob("step-*.pt"), reverse=True):
            try:
                verify(path)
            except CheckpointError as error:
                log.warning("%s; trying the previous one", error)
            else:
                return path
        return None

    def _write(self, state: dict[str, Any], step: int) -> None:
        path = self.folder / f"step-{step:09d}.pt"
        try:
            with replacing(path, durable=True) as unfinished:
                with unfinished.open("wb") as file:
                    hashing = _HashingFile(file)
                    hashing.save(state)
                # Written before the checkpoint gets its final name, so that no checkpoint is without its checksum.
                write_atomically(_checksum_path(path), f"{hashing.digest}  {path.name}\n", durable=True)
        except OSError as error:
            log.warning(
                "could not write the checkpoint %s: %s; training continues, the last good one stays", path, error
            )
            return
        self._prune()

    def _prune(self) -> None:
        # Only this writer creates such files, and it has just finished, so any that remain are from a killed run.
        for unfinished in self.folder.glob(".*.tmp"):
            unfinished.unlink(missing_ok=True)
        paths = sorted(self.folder.glob("step-*.pt"))
        for path in paths[: -self.keep]:
            if not (self.milestone_every and step_of(path) % self.milestone_every == 0):
                path.unlink(missing_ok=True)
                _checksum_path(path).unlink(missing_ok=True)


def verify(path: Path) -> None:
    """Raises CheckpointError if the file's SHA-256 differs from its recorded checksum."""
    try:
        expected = _checksum_path(path).read_text().split()[0]
        with open(path, "rb") as file:
            actual = _sha256(file)
    except (OSError, IndexError, UnicodeDecodeError) as error:
        raise CheckpointError(f"cannot verify the checkpoint {path}: {error}") from None
    if actual != expected:
        raise CheckpointError(f"the checkpoint {path} is damaged: its SHA-256 differs from {_checksum_path(path).name}")


def read(path: Path, *, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Verifies a checkpoint and returns its contents; only tensors and plain values are ever unpickled.

    Raises:
        CheckpointError: the file is missing, damaged, or of a format that this version does not read.
    """
    verify(path)
    try:
        state = torch.load(path, map_location=device, weights_only=True)
    except Exception as error:  # torch raises many types here, depending on the file
        # torch's own message is long and recommends unpickling arbitrary objects, so it is not repeated.
        what = "damaged, or not a checkpoint of this program"
        raise CheckpointError(f"the checkpoint {path} cannot be read: it is {what} ({type(error).__name__})") from error
    found = state.get("format") if isinstance(state, dict) else None
    if found != FORMAT:
        raise CheckpointError(
            f"the checkpoint {path} has format {format_value(found)}, but this version reads format {FORMAT}"
        )
    return state


def saved_bytes(state: dict[str, Any]) -> int:
    """Returns the bytes that a checkpoint of `state` would take, without writing it."""
    counting = _CountingFile()
    torch.save(state, counting)  # type: ignore[arg-type]  # it calls write and flush only
    return counting.count


def find(path: str | Path) -> Path:
    """Returns `path` if it is a file, else the newest complete checkpoint of the run folder `path`.

    Raises:
        CheckpointError: there is no checkpoint.
    """
    path = Path(path)
    if path.is_file():
        return path
    newest = CheckpointStore(path / "checkpoints", keep=1).newest() if (path / "checkpoints").is_dir() else None
    if newest is None:
        raise CheckpointError(f"no checkpoint at {path}: give a run folder (with checkpoints/step-*.pt) or a .pt file")
    return newest


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
        model = build_model(config.model, audio=config.audio, seed=config.seed)
    except ConfigError as error:
        raise ConfigError(f"{source}: {error}") from None
    try:
        model.load_state_dict(state["model"])
    except (KeyError, TypeError, AttributeError, RuntimeError) as error:
        found = format_value(" ".join(str(error).split()))
        raise CheckpointError(f"the checkpoint {source} holds no model that fits its configuration: {found}") from None
    return config, model.eval()


def require_same_config(saved: dict[str, Any], config: Config, path: Path) -> None:
    """Raises ConfigError, key by key, if the checkpoint was made with settings that differ outside FREE_KEYS."""
    before, now = flatten(saved), flatten(to_dict(config))
    differing = [
        f"  {key}: {before.get(key, '(absent)')!r} in the checkpoint, {now.get(key, '(absent)')!r} now"
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key) and not key.startswith(FREE_KEYS)
    ]
    if differing:
        raise ConfigError(
            f"{path} was made with different settings:\n"
            + "\n".join(differing)
            + "\nrestore these settings, or start a new run with a different run_dir"
        )


def step_of(path: Path) -> int:
    """Returns the step in a checkpoint's file name."""
    return int(path.stem.removeprefix("step-"))


def _copy_to_cpu(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return {key: _copy_to_cpu(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_copy_to_cpu(item) for item in value)
    return value


class _HashingFile:
    """A file that computes the SHA-256 of its data while writing."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._hash = file, hashlib.sha256()

    def write(self, data: bytes) -> int:
        self._hash.update(data)
        return self._file.write(data)

    def flush(self) -> None:
        self._file.flush()

    def save(self, state: dict[str, Any]) -> None:
        """Runs torch.save into this file; raises OSError if the disk fails."""
        try:
            torch.save(state, self)  # type: ignore[arg-type]  # it calls write and flush only
        except RuntimeError as error:
            # torch reports a failed write as a RuntimeError about an unexpected position.
            raise (error.__context__ if isinstance(error.__context__, OSError) else error) from None

    @property
    def digest(self) -> str:
        return self._hash.hexdigest()


class _CountingFile:
    """A file that counts the bytes written and discards them."""

    def __init__(self) -> None:
        self.count = 0

    def write(self, data: bytes) -> int:
        self.count += len(data)
        return len(data)

    def flush(self) -> None:
        pass


def _sha256(file: BinaryIO) -> str:
    digest = hashlib.sha256()
    while block := file.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()


def _checksum_path(path: Path) -> Path:
    return path.with_name(path.name + ".sha256")
