"""Checkpoints: tensors only, written in the background, whole or not at all."""

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
# Changing these between two runs changes where or how fast, never what is computed.
FREE_KEYS = (
    "run_dir",
    "data.path",
    "data.threads",
    "data.prefetch",
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
    """A checkpoint that cannot be used; the message says which file and what to do."""


class CheckpointStore:
    """The folder `run/checkpoints`: `step-N.pt` with `step-N.pt.sha256` (as sha256sum writes it).

    Args:
        folder: made if missing.
        keep: how many of the newest are kept.
        milestone_every: a checkpoint at a multiple of this many steps is kept for good; 0 for none.
    """

    def __init__(self, folder: Path, *, keep: int, milestone_every: int = 0) -> None:
        self.folder, self.keep, self.milestone_every = folder, keep, milestone_every
        self._writer: threading.Thread | None = None
        folder.mkdir(parents=True, exist_ok=True)

    def save(self, state: dict[str, Any], *, step: int) -> None:
        """Copies `state` now and writes it in the background; a write still under way is waited for.

        A disk that fails (full, gone) is logged and leaves the last good checkpoint as it is.
        """
        snapshot = _copy_to_cpu({"format": FORMAT, "step": step, **state})
        self.wait()
        self._writer = threading.Thread(target=self._write, args=(snapshot, step), name="checkpoint-writer")
        self._writer.start()

    def wait(self) -> None:
        """Returns when nothing is being written."""
        if self._writer is not None:
            self._writer.join()
            self._writer = None

    def newest(self) -> Path | None:
        """The newest whole checkpoint; damaged ones are named in a warning and passed over."""
        for path in sorted(self.folder.glob("step-*.pt"), reverse=True):
            try:
                verify(path)
            except CheckpointError as error:
                log.warning("%s; trying the one before", error)
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
                # Before the checkpoint takes its name: a checkpoint never stands without its checksum.
                write_atomically(_checksum_path(path), f"{hashing.digest}  {path.name}\n", durable=True)
        except OSError as error:
            log.warning("could not write the checkpoint %s: %s; training goes on, the last good one stays", path, error)
            return
        self._prune()

    def _prune(self) -> None:
        # Only this writer makes them, and it has just finished: what is left is from a run that was killed.
        for unfinished in self.folder.glob(".*.tmp"):
            unfinished.unlink(missing_ok=True)
        paths = sorted(self.folder.glob("step-*.pt"))
        for path in paths[: -self.keep]:
            if not (self.milestone_every and step_of(path) % self.milestone_every == 0):
                path.unlink(missing_ok=True)
                _checksum_path(path).unlink(missing_ok=True)


def verify(path: Path) -> None:
    """Raises CheckpointError if the file's bytes are not those that were written."""
    try:
        expected = _checksum_path(path).read_text().split()[0]
        with open(path, "rb") as file:
            actual = _sha256(file)
    except (OSError, IndexError, UnicodeDecodeError) as error:
        raise CheckpointError(f"the checkpoint {path} cannot be checked: {error}") from None
    if actual != expected:
        raise CheckpointError(f"the checkpoint {path} is damaged: its SHA-256 differs from {_checksum_path(path).name}")


def read(path: Path, *, device: torch.device | str = "cpu") -> dict[str, Any]:
    """A verified checkpoint's contents; nothing but tensors and plain values is ever unpickled.

    Raises:
        CheckpointError: the file is missing, damaged, or of a format this version does not know.
    """
    verify(path)
    try:
        state = torch.load(path, map_location=device, weights_only=True)
    except Exception as error:  # torch raises many types here, and a stranger's file decides which
        # Its message is long, and advises to unpickle what is not tensors.
        what = "damaged, or no checkpoint of this program"
        raise CheckpointError(f"the checkpoint {path} cannot be read: it is {what} ({type(error).__name__})") from error
    found = state.get("format") if isinstance(state, dict) else None
    if found != FORMAT:
        raise CheckpointError(
            f"the checkpoint {path} has format {format_value(found)}, this version reads format {FORMAT}"
        )
    return state


def saved_bytes(state: dict[str, Any]) -> int:
    """Size of the checkpoint that `state` would make; nothing is written."""
    counting = _CountingFile()
    torch.save(state, counting)  # type: ignore[arg-type]  # it asks for write and flush only
    return counting.count


def find(path: str | Path) -> Path:
    """The checkpoint that `path` means: a file, or the newest whole one of a run folder.

    Raises:
        CheckpointError: there is none.
    """
    path = Path(path)
    if path.is_file():
        return path
    newest = CheckpointStore(path / "checkpoints", keep=1).newest() if (path / "checkpoints").is_dir() else None
    if newest is None:
        raise CheckpointError(f"no checkpoint at {path}: give a run folder (with checkpoints/step-*.pt) or a .pt file")
    return newest


def load_model(path: str | Path) -> tuple[Config, CrossModalModel]:
    """The configuration and the model (on the CPU, in eval mode) of a run folder or checkpoint file."""
    return model_of(read(find(path)), source=str(path))


def model_of(state: dict[str, Any], *, source: str) -> tuple[Config, CrossModalModel]:
    """As `load_model`, of what `read` gave; `source` is what an error calls it.

    Raises:
        CheckpointError, ConfigError: contents that are no configuration and its model.
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
        raise CheckpointError(f"the checkpoint {source} holds no model of its configuration: {found}") from None
    return config, model.eval()


def require_same_config(saved: dict[str, Any], config: Config, path: Path) -> None:
    """Raises ConfigError, key by key, where the checkpoint was made with other settings that matter."""
    before, now = flatten(saved), flatten(to_dict(config))
    differing = [
        f"  {key}: {before.get(key, '(absent)')!r} in the checkpoint, {now.get(key, '(absent)')!r} now"
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key) and not key.startswith(FREE_KEYS)
    ]
    if differing:
        raise ConfigError(
            f"{path} was made with another configuration:\n"
            + "\n".join(differing)
            + "\nset these back, or start anew with another run_dir"
        )


def step_of(path: Path) -> int:
    """The step in a checkpoint's file name."""
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
    """What torch.save writes goes to the file and into a SHA-256 at once."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._hash = file, hashlib.sha256()

    def write(self, data: bytes) -> int:
        self._hash.update(data)
        return self._file.write(data)

    def flush(self) -> None:
        self._file.flush()

    def save(self, state: dict[str, Any]) -> None:
        """torch.save into this file; raises OSError where the disk does."""
        try:
            torch.save(state, self)  # type: ignore[arg-type]  # it asks for write and flush only
        except RuntimeError as error:
            # torch reports a write that failed as a position that it did not expect.
            raise (error.__context__ if isinstance(error.__context__, OSError) else error) from None

    @property
    def digest(self) -> str:
        return self._hash.hexdigest()


class _CountingFile:
    """Takes what torch.save writes for its length only."""

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
