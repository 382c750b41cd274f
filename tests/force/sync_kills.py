"""Kills `python -m pipeline.prepare --sync` while it follows a folder that has changed.

Expected: the same command finishes, and the data set holds the samples, names and labels that preparing the changed
folder into an empty one gives. They may lie in other shards.
"""

from __future__ import annotations

import functools
import random
import shutil
import time
from pathlib import Path

import torch

from tests.force.cases import PREPARE, Outcome, World, require
from tests.force.flips import differences, read_everything
from tests.force.prepare_kills import kill_runs, words_of
from tests.force.programs import run_command

torch.set_num_threads(1)


def make_synced(world: World) -> None:
    """Prepares a folder, changes it, and prepares it again into another folder, which shows what is right."""
    world.make_shards()
    videos = world.folder / "changing"
    shutil.copytree(world.videos, videos)
    _prepare(world, "before")
    _change(videos)
    _prepare(world, "right")
    shutil.copytree(world.folder / "before", world.folder / "undisturbed")
    started = time.monotonic()
    _prepare(world, "undisturbed", "--sync")
    (world.folder / "sync_seconds").write_text(str(time.monotonic() - started))


def _change(videos: Path) -> None:
    """Deletes, replaces and moves three videos each."""
    stems = sorted(path.stem for path in videos.glob("*.mp4"))
    gone, replaced, others, moved = stems[:3], stems[4:7], stems[8:11], stems[12:15]
    for stem in gone:
        (videos / f"{stem}.mp4").unlink()
    for stem, other in zip(replaced, others, strict=True):
        shutil.copyfile(videos / f"{other}.mp4", videos / f"{stem}.mp4")
    labels = (videos / "labels.csv").read_text(encoding="utf-8")
    for stem in moved:
        (videos / f"{stem}.mp4").rename(videos / f"moved-{stem}.mp4")
        labels = labels.replace(f"{stem}.mp4,", f"moved-{stem}.mp4,")
    (videos / "labels.csv").write_text(labels, encoding="utf-8")


def sync(rng: random.Random, world: World) -> Outcome:
    """Kills several runs with --sync, and finishes with one that is not disturbed."""
    out = world.scratch() / "out"
    shutil.copytree(world.folder / "before", out)
    seconds = float((world.folder / "sync_seconds").read_text())
    hits, failure = kill_runs(rng, _arguments(world, "case/out", "--sync"), out.with_name("log"), seconds)
    detail = words_of(hits)
    if failure:
        return Outcome("lost", hits.total(), f"{detail}: {failure}")
    if different := differences(_expected(world), read_everything(out)):
        return Outcome("silent", hits.total(), f"{detail}: other {', '.join(different[:6])}")
    return Outcome("kept", hits.total(), detail)


def _arguments(world: World, out: str, *options: str) -> list[str]:
    videos = world.folder / "changing"
    labels = ["--labels", str(videos / "labels.csv"), "--workers", "2", *options]
    return ["-m", "pipeline.prepare", str(videos), str(world.folder / out), *labels, *PREPARE]


def _prepare(world: World, out: str, *options: str) -> None:
    program = run_command(_arguments(world, out, *options), world.folder / f"{out}.log")
    require(program.wait(180) == 0, program.output())


@functools.cache
def _expected(world: World) -> dict[str, object]:
    return read_everything(world.folder / "right")
