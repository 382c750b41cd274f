"""Whatever a power cut leaves of a preparation, the next run gives the data set of an undisturbed one.

A run is recorded: before each change of a folder and each flush, what a disk must have kept by then and what it may
have kept. From these, states after a power cut are made: content that was not flushed is whole, lost, cut off, or
zeros; entries of folders that were not flushed are as before or as after the change.
"""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

from common import files
from pipeline.media.rejection import RejectedSource
from pipeline.prepare import run
from pipeline.prepare.media import normalise
from pipeline.prepare.run import prepare
from pipeline.shards.manifest import Manifest
from settings import PrepareConfig, StorageConfig

CONFIG = PrepareConfig(storage=StorageConfig(fps=10, short_side=16, codec="jpeg"), shard_samples=2)
DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "whole": lambda data: data,
    "lost": lambda data: b"",
    "cut off": lambda data: data[: len(data) // 2],
    "zeros": lambda data: bytes(len(data)),
    "zeros at the end": lambda data: data[: len(data) // 2] + bytes(len(data) - len(data) // 2),
}


@dataclass(frozen=True)
class Moment:
    """A disk at one moment. Files and folders are known by numbers; folder 0 is the one that holds OUT.

    Attributes:
        entries: folder -> name -> number, now; `kept_entries`: the same as it was when the folder was last flushed.
        content: file -> bytes, now; `kept_content`: as it was when the file was last flushed.
    """

    entries: dict[int, dict[str, int]]
    kept_entries: dict[int, dict[str, int]]
    content: dict[int, bytes]
    kept_content: dict[int, bytes]

    def after_power_cut(self, folder: Path, pick_entries: Callable, damage: Callable) -> None:
        """Writes a state that the disk may hold to `folder`."""
        self._write(folder, 0, pick_entries, damage)

    def _write(self, folder: Path, number: int, pick_entries: Callable, damage: Callable) -> None:
        folder.mkdir()
        before, after = self.kept_entries.get(number, {}), self.entries.get(number, {})
        for name in sorted(before.keys() | after.keys()):
            found = before.get(name) if before.get(name) == after.get(name) else pick_entries(before, after).get(name)
            if found is None:
                continue
            if found in self.entries or found in self.kept_entries:
                self._write(folder / name, found, pick_entries, damage)
            else:
                kept, now = self.kept_content.get(found), self.content.get(found, self.kept_content.get(found, b""))
                (folder / name).write_bytes(now if kept == now else damage(kept, now))


class Recorder:
    """Notes the state of a folder before each change; numbers stay with a file when it is renamed."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.moments: list[Moment] = []
        self._numbers: dict[int, int] = {root.stat().st_ino: 0}
        self._next = 1
        self._kept_entries: dict[int, dict[str, int]] = {0: {}}
        self._kept_content: dict[int, bytes] = {}

    def _number(self, path: Path) -> int:
        inode = path.stat().st_ino
        if inode not in self._numbers:
            self._numbers[inode] = self._next
            self._next += 1
        return self._numbers[inode]

    def _names(self, folder: Path) -> dict[str, int]:
        return {path.name: self._number(path) for path in folder.iterdir() if path.name != "lock"}

    def note(self) -> None:
        folders = [self.root, *(path for path in self.root.rglob("*") if path.is_dir())]
        contents = (path for path in self.root.rglob("*") if path.is_file() and path.name != "lock")
        self.moments.append(
            Moment(
                entries={self._number(folder): self._names(folder) for folder in folders},
                kept_entries=dict(self._kept_entries),
                content={self._number(path): path.read_bytes() for path in contents},
                kept_content=dict(self._kept_content),
            )
        )

    def flushed(self, path: Path) -> None:
        if path.is_dir():
            self._kept_entries[self._number(path)] = self._names(path)
        else:
            self._kept_content[self._number(path)] = path.read_bytes()

    def forget(self, path: Path) -> None:
        """The file at `path` is about to go; its inode number may be given to another file."""
        if path.exists():
            self._numbers.pop(path.stat().st_ino, None)

    def is_inside(self, path: Path) -> bool:
        return self.root in (path, *path.parents)


@contextmanager
def recording(root: Path) -> Iterator[Recorder]:
    recorder, patch = Recorder(root), pytest.MonkeyPatch()

    def changing(name: str, gone: int) -> None:
        original = getattr(os, name)

        def wrapped(*paths, **options):
            if recorder.is_inside(Path(paths[0])):
                recorder.note()
                if gone >= 0:
                    recorder.forget(Path(paths[gone]))
            return original(*paths, **options)

        patch.setattr(os, name, wrapped)

    sync = os.fsync

    def noted_sync(descriptor: int) -> None:
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        sync(descriptor)
        if recorder.is_inside(path):
            recorder.note()
            recorder.flushed(path)

    for name, gone in (("replace", 1), ("rename", 1), ("unlink", 0), ("mkdir", -1)):
        changing(name, gone)
    patch.setattr(os, "fsync", noted_sync)
    try:
        yield recorder
    finally:
        patch.undo()
        recorder.note()


def states(moment: Moment, choose: random.Random) -> Iterator[tuple[Callable, Callable]]:
    """The extremes, and two random mixtures."""

    def before(old, _new):
        return old

    def after(_old, new):
        return new

    for pick in (before, after):
        for change in DAMAGES.values():
            yield pick, lambda kept, now, change=change: change(now)
    for _ in range(2):
        pick = lambda old, new: choose.choice((old, new))  # noqa: E731
        yield pick, lambda kept, now: choose.choice([kept or b"", *(change(now) for change in DAMAGES.values())])


@pytest.fixture
def sources(clip, tmp_path, monkeypatch) -> Path:
    """Five videos and a damaged one, which are decoded once for all runs, and in this process."""
    for index in range(5):
        clip(f"{index}.mkv", seconds=0.6, shade=20 * index)
    (tmp_path / "src/2bad.mp4").write_text("<html>")
    monkeypatch.setattr(run, "normalise", cache(normalise))

    def inline(function, tasks, **_options):
        for task in tasks:
            try:
                function(task)
            except RejectedSource as error:
                yield task, error
            else:
                yield task, None

    monkeypatch.setattr(run, "run_tasks", inline)
    monkeypatch.setattr(run, "show_progress", lambda items, total: items)
    return tmp_path / "src"


def contents(out: Path) -> dict[str, bytes]:
    """All files of the data set, without the journal (it may hold a line twice) and the damaged files set aside."""
    kept = [path for path in out.rglob("*") if path.is_file() and path.suffix != ".rejected"]
    return {
        path.relative_to(out).as_posix(): path.read_bytes()
        for path in kept
        if "damaged" not in path.relative_to(out).parts
    }


def broken_states(src: Path, folder: Path, choose: random.Random, count: int) -> list[str]:
    """Records a run, and returns how the reruns on `count` states after a power cut differ from it."""
    (folder / "disk").mkdir(parents=True)
    with recording(folder / "disk") as recorder:
        prepare(src, folder / "disk/out", config=CONFIG)
    expected = contents(folder / "disk/out")
    every = [(moment, *state) for moment in recorder.moments for state in states(moment, choose)]
    wrong = []
    for moment, pick, damage in choose.sample(every, min(count, len(every))):
        shutil.rmtree(folder / "after", ignore_errors=True)
        moment.after_power_cut(folder / "after", pick, damage)
        try:
            prepare(src, folder / "after/out", config=CONFIG)
            found = contents(folder / "after/out")
        except Exception as error:
            wrong.append(repr(error))
            continue
        names = [name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name)]
        wrong += [str(names)] if names else []
        Manifest.open(folder / "after/out")
    return wrong


def test_a_run_after_a_power_cut_gives_the_data_set_of_an_undisturbed_run(sources, tmp_path):
    assert broken_states(sources, tmp_path, random.Random(0), count=int(os.environ.get("POWER_CUTS", "80"))) == []


def test_the_recorder_notices_content_that_is_never_flushed(sources, tmp_path, monkeypatch):
    monkeypatch.setattr(files, "sync", lambda path: None)
    assert broken_states(sources, tmp_path, random.Random(0), count=60)


@pytest.mark.parametrize("damage", ["lost", "cut off", "zeros", "zeros at the end", "first line only", "gone"])
@pytest.mark.parametrize(
    "name",
    [
        "shard-000001.tar",
        "index/shard-000000.rows",
        "index/shard-000002.rows",
        "index/part.rejected",
        "manifest/meta.json",
        "manifest/*/frame_start.npy",
        "rejected.jsonl",
    ],
)
def test_a_file_that_a_disk_lost_although_it_was_flushed_is_made_again(sources, tmp_path, name, damage):
    prepare(sources, tmp_path / "out", config=CONFIG)
    expected = contents(tmp_path / "out")
    (path,) = (tmp_path / "out").glob(name)
    data = path.read_bytes()
    if damage == "gone":
        path.unlink()
    elif damage == "first line only":
        path.write_bytes(data.partition(b"\n")[0] + b"\n")
    else:
        path.write_bytes(DAMAGES[damage](data))
    summary = prepare(sources, tmp_path / "out", config=CONFIG)
    found = contents(tmp_path / "out")
    if name.startswith("shard") and damage == "gone":
        assert list(summary.set_aside) == ["shard-000001"]
    assert {name: data for name, data in found.items() if name in expected} == expected
    assert Manifest.open(tmp_path / "out")
