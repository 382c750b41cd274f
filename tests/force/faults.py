"""Runs prepare, training and evaluation on a file system that becomes full or read-only at a random moment.

Expected: an exit status other than 0 and a message of a few lines that names a file or the folder, or a run that
finishes with the right result nevertheless. Once the fault is gone, the same command ends with the right result, in
which lines of metrics may be missing if the run said so.
"""

from __future__ import annotations

import errno
import functools
import json
import os
import random
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import evaluate  # noqa: F401 - loaded here, once, for all forked runs
from tests.force import training_kills
from tests.force.cases import Outcome, World, folder_differences, prepare_arguments, require
from tests.force.fault.sitecustomize import install
from tests.force.programs import Program, fork_script, kill, run_command
from tests.training import kill_and_resume as kills

_HOOK = Path(__file__).parent / "fault"
_NEVER = 10**9
_LIMIT = 100
"""Time in seconds within which a program must end."""
_LINES = 8
"""Largest number of lines of a message."""
_MESSAGE = re.compile(r"^(prepare|train\.py|evaluate\.py|evaluate|train): ", re.MULTILINE)


@dataclass(frozen=True)
class Fault:
    """What happens to the folder: errors with `number` (an errno) after some changes, or a tmpfs of `kilobytes`."""

    number: int = 0
    after: int = 0
    kilobytes: int = 0

    def __str__(self) -> str:
        name = f"a full tmpfs of {self.kilobytes} kB" if self.kilobytes else errno.errorcode[self.number]
        return name if self.kilobytes else f"{name} after {self.after} changes"


@dataclass(frozen=True)
class Subject:
    """A program under test.

    Attributes:
        start: starts it on a folder, with a fault or None, and a log file.
        wrong: lists what is wrong with a finished folder; entries that concern only metrics.jsonl start with "step" or
            "metrics".
        kilobytes: size of the file system that it needs; 0 to try it with errors only.
        fill: makes the initial content of the folder.
    """

    start: Callable[[World, Path, Fault | None, Path], Program]
    wrong: Callable[[World, Path], list[str]]
    kilobytes: int
    fill: Callable[[World, Path], object] = lambda world, folder: None


def fault(rng: random.Random, world: World) -> Outcome:
    """Runs a program with a fault, and again without it if it failed."""
    name = rng.choices(list(SUBJECTS), weights=[4, 4, 2])[0]
    subject = SUBJECTS[name]
    case = world.scratch()
    folder, log = case / "disk", case / "log"
    folder.mkdir()
    full = rng.random() < 0.5 and bool(subject.kilobytes)
    if full and not _mount(folder, kilobytes := max(8, int(rng.uniform(0.01, 0.95) * subject.kilobytes))):
        full = False
    if full:
        chosen = Fault(kilobytes=kilobytes)
    else:
        number = rng.choice([errno.EROFS, errno.EROFS, errno.ENOSPC, errno.EDQUOT])
        changes = int((world.folder / f"changes-{name}-{number}").read_text())
        chosen = Fault(number=number, after=rng.choice([0, rng.randrange(changes), rng.randrange(changes)]))
    try:
        return _try(subject, world, folder / "made", chosen, log, what=f"{name}, {chosen}")
    finally:
        if full:
            subprocess.run(["umount", "--lazy", str(folder)], check=True)


def _try(subject: Subject, world: World, folder: Path, chosen: Fault, log: Path, *, what: str) -> Outcome:
    subject.fill(world, folder)
    code = _ended(subject.start(world, folder, chosen, log))
    said = log.read_text(errors="replace")
    if code is None:
        return Outcome("lost", detail=f"{what}: the run does not end")
    if code == 0 and not (wrong := subject.wrong(world, folder)):
        return Outcome("kept", detail=f"{what}: finished nevertheless")
    if code == 0:
        named = str(folder) in said
        if named and all(line.startswith(("step", "metrics")) for line in wrong):
            return Outcome("kept", detail=f"{what}: finished without some lines of metrics, and reported this")
        return Outcome("lost" if named else "silent", detail=f"{what}: exit status 0, but wrong: {wrong[:5]}")
    if problem := message_problem(said, folder):
        return Outcome("lost", detail=f"{what}: exit status {code}, {problem}: {said[-700:]}")
    if chosen.kilobytes:
        subprocess.run(["mount", "-o", f"remount,size={4 * subject.kilobytes}k", str(folder.parent)], check=True)
    code = _ended(subject.start(world, folder, None, log))
    if code != 0:
        later = log.read_text(errors="replace")[len(said) :]
        return Outcome("lost", detail=f"{what}: afterwards the run ends with {code}: {later[-700:]}")
    wrong = subject.wrong(world, folder)
    # A resumed run does not write the lines of metrics from before its checkpoint again.
    if all(line.startswith(("step", "metrics")) for line in wrong) and ("metrics.jsonl" in said or not wrong):
        return Outcome("kept", detail=f"{what}: reported, then finished")
    return Outcome("silent", detail=f"{what}: afterwards the run ends with 0, but wrong: {wrong[:5]}")


def message_problem(said: str, folder: Path) -> str:
    """Returns what is wrong with the message at the end of a log; empty if it is right."""
    if "Traceback (most recent call last)" in said:
        return "a traceback"
    starts = [match.start() for match in _MESSAGE.finditer(said)]
    if not starts:
        return "no message"
    message = said[starts[-1] :].strip()
    if len(message.splitlines()) > _LINES:
        return f"a message of {len(message.splitlines())} lines"
    return "" if str(folder) in message else "a message that names no file or folder"


def _ended(program: Program) -> int | None:
    """Waits for the exit status; returns None if the program does not end, and kills it."""
    try:
        return program.wait(_LIMIT)
    except TimeoutError:
        kill(program)
        return None


def _mount(folder: Path, kilobytes: int) -> bool:
    """Mounts a tmpfs of this size; returns False if that is not allowed here."""
    options = ["-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(folder)]
    return not subprocess.run(["mount", *options], capture_output=True, check=False).returncode


def _specification(chosen: Fault, folder: Path, counter: Path) -> dict[str, str | int]:
    counter.unlink(missing_ok=True)
    return {"folder": str(folder), "number": chosen.number, "after": chosen.after, "counter": str(counter)}


def _start_prepare(world: World, folder: Path, chosen: Fault | None, log: Path) -> Program:
    environment = {}
    if chosen is not None and chosen.number:
        environment["CMACC_FAULT"] = json.dumps(_specification(chosen, folder, log.with_name("counter")))
        environment["PYTHONPATH"] = str(_HOOK)
    return run_command(prepare_arguments(world, folder), log, environment)


def _start_script(script: str, arguments: list[str], folder: Path, chosen: Fault | None, log: Path) -> Program:
    before: Callable[[], object] = int  # does nothing
    if chosen is not None and chosen.number:
        before = functools.partial(install, **_specification(chosen, folder, log.with_name("counter")))
    return fork_script(script, arguments, log, before=before)


def _start_training(world: World, folder: Path, chosen: Fault | None, log: Path) -> Program:
    arguments = ["--resume", "auto", *training_kills.arguments(world), f"run_dir={folder}"]
    return _start_script("train.py", arguments, folder, chosen, log)


def _start_evaluation(world: World, folder: Path, chosen: Fault | None, log: Path) -> Program:
    arguments = ["--checkpoint", str(folder), "--protocol", "retrieval", "--data", str(world.shards)]
    return _start_script("evaluate.py", arguments, folder, chosen, log)


def _wrong_evaluation(world: World, folder: Path) -> list[str]:
    results = [
        {path.name: json.loads(path.read_text()) for path in one.glob("*.json")}
        for one in (training_kills.undisturbed(world, 1), folder)
    ]
    rows = [
        {name: result.get("rows") for name, result in one.items() if name.startswith("evaluation")} for one in results
    ]
    return [] if rows[0] == rows[1] else ["the results of the evaluation"]


SUBJECTS = {
    "prepare": Subject(_start_prepare, lambda world, folder: folder_differences(world.shards, folder), 7000),
    "training": Subject(
        _start_training,
        lambda world, folder: kills.differences(training_kills.undisturbed(world, 1), folder),
        52000,
    ),
    "evaluation": Subject(
        _start_evaluation,
        _wrong_evaluation,
        0,
        lambda world, folder: shutil.copytree(
            training_kills.undisturbed(world, 1), folder, ignore=shutil.ignore_patterns("evaluation-*")
        ),
    ),
}


def make_faulty(world: World) -> None:
    """Makes the undisturbed originals, and counts the changes that each program makes."""
    training_kills.make_run(world)
    evaluation = _start_evaluation(world, training_kills.undisturbed(world, 1), None, world.folder / "evaluation.log")
    require(evaluation.wait(_LIMIT) == 0, evaluation.output())
    for name, subject in SUBJECTS.items():
        for number in (errno.EROFS, errno.ENOSPC, errno.EDQUOT):
            folder, log = world.folder / "counted", world.folder / "counted.log"
            shutil.rmtree(folder, ignore_errors=True)
            subject.fill(world, folder)
            program = subject.start(world, folder, Fault(number=number, after=_NEVER), log)
            require(program.wait(_LIMIT) == 0, program.output())
            changes = os.path.getsize(log.with_name("counter"))
            (world.folder / f"changes-{name}-{number}").write_text(str(changes))
