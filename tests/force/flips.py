"""Flips single bits of prepared data sets and checkpoints, and reads all of them.

Expected: the damage is named, or everything that is read is as before. From a data set, the frames and sound of all
samples, their labels, names and clock are read; from a checkpoint, its entire content.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import random
import resource
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from pipeline.load.clip_loader import ClipLoader
from pipeline.loader import make_loader
from pipeline.plan.bad_samples import SampleError
from pipeline.shards.manifest import Manifest, ManifestError
from settings import Config, ConfigError, load_config
from tests.force import training_kills
from tests.force.cases import Outcome, World
from tests.fuzz import originals
from training.checkpoint import CheckpointError, find, read

torch.set_num_threads(1)

SHARES = {"shard": 50, "array": 23, "meta.json": 5, "checkpoint": 20, "checksum": 2}
"""Kind of file -> its share of the flips, in percent."""
READING = ["clip.frames=4", "clip.size=32", "audio.n_mels=16", "train.batch_size=5", "data.threads=1"]
"""Settings with which a data set is read: two clips hold all frames of a sample."""
_MEMORY = 4 * 2**30
"""Address space in bytes that this process may use in addition to what it occupies at the first flip."""


class _WarningCollector(logging.Handler):
    """Collects warnings."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())


def make_flipped(world: World) -> None:
    """Makes the data sets of five clips and the checkpoints in which bits are flipped."""
    originals.prepared(world.folder / "tiny")
    training_kills.make_run(world)
    shutil.copytree(training_kills.undisturbed(world, 1), world.folder / "flipped-run", dirs_exist_ok=True)


def flip(rng: random.Random, world: World) -> Outcome:
    """Flips one bit, reads everything, and takes the flip back."""
    _prepare_process()
    what = rng.choices(list(SHARES), weights=list(SHARES.values()))[0]
    shards, run_dir = world.folder / "tiny" / rng.choice(["jpeg", "vp9"]), world.folder / "flipped-run"
    path = rng.choice(targets(what, shards, run_dir))
    offset, bit = rng.randrange(path.stat().st_size), rng.randrange(8)
    name = f"bit {bit} of byte {offset} of {path.relative_to(world.folder)}"
    if what in ("checkpoint", "checksum"):
        expected: Any = _checkpoint(run_dir)
        with flipped(path, offset, bit):
            return verdict(name, functools.partial(_read_checkpoint, run_dir), expected)
    expected = _contents(shards)
    with flipped(path, offset, bit):
        # A shard is read through an open loader, which saves the time for building it.
        loader = _open_loader(shards) if what == "shard" else None
        outcome = verdict(name, functools.partial(read_everything, shards, loader), expected)
    if "detected" in outcome.detail:
        _open_loader.cache_clear()
    return outcome


def targets(what: str, shards: Path, run_dir: Path) -> list[Path]:
    """Returns the files of a kind."""
    if what in ("checkpoint", "checksum"):
        newest = find(run_dir)
        return [newest if what == "checkpoint" else newest.with_name(newest.name + ".sha256")]
    patterns = {"shard": "shard-*", "array": "manifest/*/*", "meta.json": "manifest/meta.json"}
    return sorted(path for path in shards.glob(patterns[what]) if path.stat().st_size)


@contextlib.contextmanager
def flipped(path: Path, offset: int, bit: int) -> Iterator[None]:
    """Flips a bit of a file in place, and flips it back at the end."""
    descriptor = os.open(path, os.O_RDWR)
    byte = os.pread(descriptor, 1, offset)
    os.pwrite(descriptor, bytes([byte[0] ^ 1 << bit]), offset)
    try:
        yield
    finally:
        os.pwrite(descriptor, byte, offset)
        os.close(descriptor)


def verdict(name: str, call: Any, expected: Any) -> Outcome:
    """Calls `call`, which reads damaged files. The promise is kept if it raises one of the documented errors, warns, or
    returns `expected`."""
    warnings = _WarningCollector()
    logging.getLogger().addHandler(warnings)
    try:
        found = call()
    except (ManifestError, SampleError, ConfigError, CheckpointError) as error:
        return Outcome("kept", detail=f"{name}: detected: {' '.join(str(error).split())[:200]}")
    except Exception as error:
        return Outcome(
            "lost", detail=f"{name}: {type(error).__name__} instead of a documented error: {str(error)[:300]}"
        )
    finally:
        logging.getLogger().removeHandler(warnings)
    if different := differences(expected, found):
        if warnings.texts:
            return Outcome("kept", detail=f"{name}: detected: {warnings.texts[0][:200]}")
        return Outcome("silent", detail=f"{name}: different {', '.join(different[:6])}, and nothing was reported")
    return Outcome("kept", detail=f"{name}: harmless")


def read_everything(shards: Path, loader: ClipLoader[Manifest] | None = None) -> dict[str, Any]:
    """Opens a data set and reads all its clips, sound, labels and names.

    Raises:
        ManifestError, SampleError, ConfigError: the data set is damaged.
    """
    loader = loader or _loader(shards)
    dataset = loader.dataset
    found: dict[str, Any] = {"names": [dataset.source(i) for i in range(len(dataset))], "clock": dataset.storage.fps}
    for column in dataset.label_columns:
        names = [*dataset.label_names(column), ""]
        found[f"labels {column}"] = [names[code] for code in dataset.labels(column).tolist()]
    found["seconds"] = dataset.seconds.tolist()
    for number, batch in enumerate(loader.uniform_clips(loader.ids, clips=2, crops=3)):
        found[f"batch {number}"] = [batch.video, batch.audio, batch.ids]
    return found


def differences(expected: Any, found: Any, name: str = "") -> list[str]:
    """Returns the names of the values that differ in any bit."""
    if isinstance(expected, torch.Tensor):
        same = isinstance(found, torch.Tensor) and expected.dtype == found.dtype and torch.equal(expected, found)
        return [] if same else [name]
    if isinstance(expected, dict) and isinstance(found, dict):
        keys = expected.keys() | found.keys()
        return [
            one for key in sorted(keys, key=str) for one in differences(expected.get(key), found.get(key), str(key))
        ]
    if isinstance(expected, list | tuple) and isinstance(found, list | tuple) and len(expected) == len(found):
        return [one for a, b in zip(expected, found, strict=True) for one in differences(a, b, name)]
    return [] if repr(expected) == repr(found) else [name]


def _loader(shards: Path) -> ClipLoader[Any]:
    return make_loader(load_config(Config, overrides=[*READING, "data.idle_priority=false", f"data.path={shards}"]))


_open_loader = functools.cache(_loader)


@functools.cache
def _contents(shards: Path) -> dict[str, Any]:
    return read_everything(shards)


def _read_checkpoint(run_dir: Path) -> dict[str, Any]:
    return read(find(run_dir))


_checkpoint = functools.cache(_read_checkpoint)


@functools.cache
def _prepare_process() -> None:
    """Limits the memory of this process, because libraries may allocate as much as a damaged number says, and discards
    what it writes to standard error."""
    with open("/proc/self/statm", encoding="ascii") as file:
        present = int(file.read().split()[0]) * resource.getpagesize()
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    resource.setrlimit(resource.RLIMIT_AS, (present + _MEMORY, hard))
    be_silent()


@functools.cache
def be_silent() -> None:
    """Drops the messages of this process and of those that it starts."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())
