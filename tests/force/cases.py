"""Shared by all kinds of cases: the outcome of a case, the undisturbed originals, and comparing prepared folders."""

from __future__ import annotations

import filecmp
import random
import re
import shutil
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pipeline.shards.meta import unsealed
from tests.force.programs import run_command

PREPARE = ["storage.short_side=64", "storage.codec=jpeg", "shard_samples=5"]
"""Settings of the prepared data set."""
_VIDEOS = 24
_ORIGINAL_SECONDS = 180
"""Limit for making an original, in seconds."""


@dataclass(frozen=True)
class Outcome:
    """How a case ended.

    Attributes:
        verdict: `kept` (the result is right, or the damage was reported), `lost` (the result is gone, or the program
            failed in another way than promised), or `silent` (the result is wrong, and nothing was reported).
        tried: number of kills, flips or faults that hit.
        detail: what was done, and what was found, in words.
    """

    verdict: str
    tried: int = 1
    detail: str = ""


Case = Callable[[random.Random, "World"], Outcome]


@dataclass(frozen=True)
class World:
    """The working folder of a campaign. The originals are made once, before the first case that needs them."""

    folder: Path

    def scratch(self) -> Path:
        """Makes an empty folder for one case."""
        folder = self.folder / "case"
        if (folder / "disk").is_mount():  # left by a case that was killed
            subprocess.run(["umount", "--lazy", str(folder / "disk")], check=True)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        return folder

    @property
    def videos(self) -> Path:
        """Two dozen short videos, with their labels."""
        return self.folder / "videos"

    @property
    def shards(self) -> Path:
        """The data set that an undisturbed run prepared from the videos."""
        return self.folder / "shards"

    @property
    def prepare_seconds(self) -> float:
        """Duration of the undisturbed run."""
        return float((self.folder / "prepare_seconds").read_text())

    def make_shards(self) -> None:
        """Makes the videos and prepares them, undisturbed."""
        if (self.folder / "prepare_seconds").exists():
            return
        demo = run_command(["-m", "pipeline.demo", str(self.videos), f"--videos={_VIDEOS}"], self.folder / "demo.log")
        require(demo.wait(_ORIGINAL_SECONDS) == 0, demo.output())
        started = time.monotonic()
        prepared = run_command(prepare_arguments(self, self.shards), self.folder / "prepare.log")
        require(prepared.wait(_ORIGINAL_SECONDS) == 0, prepared.output())
        (self.folder / "prepare_seconds").write_text(str(time.monotonic() - started))


def require(condition: bool, problem: str) -> None:
    """Raises RuntimeError unless an undisturbed program did its work: without it there is nothing to compare with."""
    if not condition:
        raise RuntimeError(f"an undisturbed program failed:\n{problem[-3000:]}")


def prepare_arguments(world: World, out: Path) -> list[str]:
    """Returns the command line that prepares the videos into `out`."""
    labels = str(world.videos / "labels.csv")
    return ["-m", "pipeline.prepare", str(world.videos), str(out), "--labels", labels, "--workers", "2", *PREPARE]


def folder_differences(expected: Path, found: Path) -> list[str]:
    """Returns the files in which two prepared folders differ in any bit; samples in `.staging` do not count.

    The manifest lies in a folder whose name may differ, so it is compared under the same name in both.
    """
    sides = [_files(folder) for folder in (expected, found)]
    names = sides[0].keys() | sides[1].keys()
    different = [name for name in names if not all(name in side for side in sides)]
    for name in names - set(different):
        paths = [side[name] for side in sides]
        same = (
            _meta(paths[0]) == _meta(paths[1]) if name == "manifest/meta.json" else filecmp.cmp(*paths, shallow=False)
        )
        different += [] if same else [name]
    return sorted(different)


def _files(folder: Path) -> dict[str, Path]:
    paths = [path for path in folder.rglob("*") if path.is_file() and ".staging" not in path.parts]
    names = (str(path.relative_to(folder)) for path in paths)
    return {
        re.sub(r"^manifest/[^/]+/", "manifest/VERSION/", name): path for name, path in zip(names, paths, strict=True)
    }


def _meta(path: Path) -> dict[str, object]:
    """The content of a meta.json without its version and the seal, which covers the version; empty if it is damaged."""
    try:
        content = unsealed(path.read_bytes())
    except ValueError:
        return {}
    return {key: value for key, value in content.items() if key not in ("version", "sha256")}


def prepared_outcome(world: World, out: Path, *, tried: int, detail: str) -> Outcome:
    """Compares a finished data set with the undisturbed one."""
    rejected = (out / "rejected.jsonl").read_text().splitlines()
    if rejected:
        return Outcome("lost", tried, f"{detail}: {len(rejected)} files were rejected, the first: {rejected[0][:300]}")
    different = folder_differences(world.shards, out)
    if different:
        return Outcome("silent", tried, f"{detail}: the data set differs in {', '.join(different[:8])}")
    return Outcome("kept", tried, detail)
