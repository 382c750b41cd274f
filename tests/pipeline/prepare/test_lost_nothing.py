"""Killed workers, vanished files and full disks lose nothing, and what may have been the machine's fault is retried."""

from __future__ import annotations

import errno
import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest

from pipeline.media.rejection import RejectedSource
from pipeline.prepare import run
from pipeline.prepare.__main__ import main
from pipeline.prepare.records import PrepareError
from pipeline.prepare.run import prepare
from pipeline.prepare.workers.pool import WorkersCannotStart
from settings import PrepareConfig, StorageConfig

CONFIG = PrepareConfig(storage=StorageConfig(fps=10, short_side=16), shard_samples=3)
ROOT = Path(__file__).parents[3]


def contents(out: Path) -> dict[str, bytes]:
    """All files of the data set but the journal, which may hold a line twice."""
    files = [path for path in out.rglob("*") if path.is_file() and path.suffix != ".rejected"]
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in files}


def workers_of(process: int) -> list[int]:
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == process and b"workers.process" in (folder / "cmdline").read_bytes():
                found.append(int(folder.name))
    return found


def test_shards_do_not_depend_on_which_workers_are_killed(clip, tmp_path):
    for index in range(8):
        clip(f"{index:02}.mkv", seconds=2, shade=10 * index)
    (tmp_path / "src/bad.mp4").write_text("<html>")
    prepare(tmp_path / "src", tmp_path / "undisturbed", config=CONFIG, workers=1)
    ended, killed, choose = threading.Event(), [], random.Random(0)

    def kill_workers() -> None:
        # Some are killed while they start, some while they work.
        while not ended.wait(choose.uniform(0.05, 0.6)) and len(killed) < 8:
            for process in choose.sample(found := workers_of(os.getpid()), min(len(found), 1)):
                os.kill(process, signal.SIGKILL)
                killed.append(process)

    killer = threading.Thread(target=kill_workers)
    killer.start()
    try:
        prepare(tmp_path / "src", tmp_path / "disturbed", config=CONFIG, workers=2)
    finally:
        ended.set()
        killer.join()
    assert killed
    assert contents(tmp_path / "disturbed") == contents(tmp_path / "undisturbed")


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 75)])
def test_a_signal_ends_the_command_and_its_workers_within_seconds(clip, tmp_path, number, status):
    for index in range(8):
        clip(f"{index}.mkv", seconds=5, shade=5 * index)
    command = [sys.executable, "-m", "pipeline.prepare", str(tmp_path / "src"), str(tmp_path / "out"), "--workers", "2"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 30
        while not list(tmp_path.glob("out/.staging/part/*.tar")) and time.monotonic() < deadline:
            time.sleep(0.01)
        found = workers_of(process.pid)
        process.send_signal(number)
        begun = time.monotonic()
        _, text = process.communicate()
    assert time.monotonic() - begun < 3
    assert process.returncode == status
    said = [line for line in text.splitlines() if not re.match("prepare: (preparing|listing|comparing) ", line)]
    assert set(said) == {f"prepare: stopped by {'Ctrl-C' if number == signal.SIGINT else 'SIGTERM'}"}
    assert found
    while any(map(is_alive, found)) and time.monotonic() - begun < 5:
        time.sleep(0.01)
    assert not any(map(is_alive, found))


def is_alive(process: int) -> bool:
    """Whether the process exists; one that has ended but that nobody has waited for has no command line."""
    with suppress(OSError):
        return bool(Path(f"/proc/{process}/cmdline").read_bytes())
    return False


def failing_with(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def run_tasks(_function, tasks, **_options):
        for task in tasks:
            if isinstance(error, WorkersCannotStart):
                raise error
            yield task, error

    monkeypatch.setattr(run, "run_tasks", run_tasks)


def test_files_that_the_machine_may_have_failed_are_tried_again(clip, tmp_path, monkeypatch):
    src, out = clip("a.mp4").parent, tmp_path / "out"
    for reason in ("timed out", "out of memory", "decoder crashed", "internal error", "cannot be read"):
        failing_with(monkeypatch, RejectedSource(reason))
        assert prepare(src, out, config=CONFIG).rejected == {reason: 1}
        assert prepare(src, out, config=CONFIG, retry=False).rejected == {}
    failing_with(monkeypatch, RejectedSource("truncated or damaged"))
    assert prepare(src, out, config=CONFIG).rejected == {"truncated or damaged": 1}
    assert prepare(src, out, config=CONFIG).rejected == {}
    (entry,) = map(json.loads, (out / "rejected.jsonl").read_text().splitlines())
    assert entry["reason"] == "truncated or damaged"


def test_workers_that_cannot_start_end_the_command_with_one_line(clip, tmp_path, monkeypatch, capsys):
    failing_with(monkeypatch, WorkersCannotStart("no worker process can be started (no memory)"))
    assert main([str(clip("a.mp4").parent), str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err == "prepare: no worker process can be started (no memory)\n"


def test_a_source_that_vanishes_is_rejected_and_the_run_goes_on(clip, tmp_path, monkeypatch):
    def vanished(path, _config):
        raise FileNotFoundError(errno.ENOENT, "No such file or directory")

    monkeypatch.setattr(run, "normalise", vanished)
    task = run.SampleTask(source=run.find_sources(clip("a.mp4").parent)[0][0], fragment=tmp_path / "a.tar", labels={})
    with pytest.raises(RejectedSource, match="cannot be read: No such file or directory"):
        run.prepare_sample(task, config=CONFIG)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS])
@pytest.mark.parametrize("step", range(1, 40, 6))
def test_a_full_or_read_only_disk_is_one_sentence_and_the_next_run_completes(clip, tmp_path, monkeypatch, number, step):
    src = clip("a.mp4", seconds=0.6).parent
    (src / "bad.mp4").write_text("<html>")
    out, steps = tmp_path / "out", iter(range(step))

    def fail(function):
        def wrapped(*args, **kwargs):
            if threading.current_thread() is threading.main_thread() and next(steps, None) is None:
                raise OSError(number, os.strerror(number))
            return function(*args, **kwargs)

        return wrapped

    def inline(function, tasks, **_options):
        for task in tasks:
            try:
                function(task)
            except (RejectedSource, OSError) as error:
                yield task, error
            else:
                yield task, None

    monkeypatch.setattr(run, "run_tasks", inline)
    prepare(src, tmp_path / "undisturbed", config=CONFIG)
    with monkeypatch.context() as full:
        for name in ("fsync", "replace", "rename", "mkdir", "unlink"):
            full.setattr(os, name, fail(getattr(os, name)))
        with (
            suppress(PrepareError) if step > 20 else pytest.raises(PrepareError, match=f"^[^\\n]*{os.strerror(number)}")
        ):
            prepare(src, out, config=CONFIG)
    prepare(src, out, config=CONFIG)
    assert contents(out) == contents(tmp_path / "undisturbed")
