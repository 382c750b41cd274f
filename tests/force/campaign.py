"""Runs cases in forked processes that may crash or hang; appends each outcome to a file, so that a campaign resumes."""

from __future__ import annotations

import importlib
import json
import multiprocessing
import os
import random
import shutil
import signal
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from tests.force.cases import Outcome, World
from tests.force.programs import end_session
from tests.fuzz.cases import working_folder

_FORK = multiprocessing.get_context("fork")
_PROGRESS_SECONDS = 10.0
"""Interval between two lines of progress, in seconds."""
_SHOWN_FINDINGS = 20
"""Findings per kind that are printed; the results file holds all of them."""
VERDICTS = ("kept", "lost", "silent")


@dataclass(frozen=True)
class Kind:
    """A kind of cases.

    Attributes:
        module, function: where the case is defined.
        what: what is tried, in words.
        needs: name of the function, in the module or in `World`, that makes the undisturbed originals.
        cases: number of cases of a full campaign.
        seconds: limit per case.
    """

    module: str
    function: str
    what: str
    needs: str
    cases: int
    seconds: float


KINDS = {
    "workers": Kind("prepare_kills", "workers", "SIGKILL of a worker of prepare", "make_shards", 18, 150),
    "group": Kind("prepare_kills", "group", "SIGKILL of prepare and its workers", "make_shards", 11, 300),
    "sync": Kind("sync_kills", "sync", "SIGKILL of prepare --sync and its workers", "make_synced", 11, 300),
    "training": Kind("training_kills", "one_process", "SIGKILL of training, 1 process", "make_run", 9, 240),
    "ranks": Kind("training_kills", "two_processes", "SIGKILL of training, 2 processes", "make_runs", 7, 400),
    "torchrun": Kind("training_kills", "torchrun", "SIGKILL of a rank under torchrun", "make_runs", 1, 500),
    "flips": Kind("flips", "flip", "one flipped bit", "make_flipped", 1200, 60),
    "index": Kind("index_flips", "flip_index", "one flipped bit of what only prepare reads", "make_index", 200, 60),
    "full": Kind("faults", "fault", "full or read-only file system", "make_faulty", 48, 240),
}


@dataclass(frozen=True)
class Record:
    """The outcome of a case: one line of the results file."""

    kind: str
    seed: int
    number: int
    verdict: str
    tried: int
    seconds: float
    detail: str


def read_records(path: Path) -> list[Record]:
    """Returns the records of a results file up to the first incomplete line."""
    records = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            records.append(Record(**json.loads(line)))
        except (ValueError, TypeError):
            break
    return records


def run(
    kinds: Sequence[str], numbers: Callable[[Kind], range], *, seed: int, seconds: float, out: Path
) -> list[Record]:
    """Runs the cases that `out` does not hold yet, until `seconds` have passed; returns all records of `out`."""
    end = time.monotonic() + seconds
    out.parent.mkdir(parents=True, exist_ok=True)
    records = read_records(out)
    out.write_text("".join(json.dumps(asdict(record)) + "\n" for record in records), encoding="utf-8")
    folder = working_folder()
    try:
        for name in kinds:
            done = {record.number for record in records if (record.kind, record.seed) == (name, seed)}
            left = [number for number in numbers(KINDS[name]) if number not in done]
            if left and time.monotonic() < end:
                _run_kind(name, left, seed=seed, world=World(folder), end=end, out=out)
    finally:
        World(folder).scratch()  # unmounts what a killed case has left
        shutil.rmtree(folder, ignore_errors=True)
    return read_records(out)


def _run_kind(name: str, numbers: list[int], *, seed: int, world: World, end: float, out: Path) -> None:
    kind = KINDS[name]
    print(f"{name}: {len(numbers)} cases to run: {kind.what}", flush=True)
    module = importlib.import_module(f"tests.force.{kind.module}")
    make = getattr(module, kind.needs, None) or getattr(World, kind.needs)
    _in_a_fork(make, world)
    function, started, shown = getattr(module, kind.function), time.monotonic(), time.monotonic()
    done = found = 0
    while done < len(numbers) and time.monotonic() < end:
        for record in _run_process(name, function, numbers[done:], seed=seed, world=world, end=end):
            with out.open("a", encoding="utf-8") as file:
                file.write(json.dumps(asdict(record), ensure_ascii=False) + "\n")
            done += 1
            found += record.verdict != "kept"
            if record.verdict != "kept" and found <= _SHOWN_FINDINGS:
                print(f"{name} {record.number}: {record.verdict.upper()}: {record.detail[:600]}", flush=True)
            if time.monotonic() - shown > _PROGRESS_SECONDS or done == len(numbers):
                shown = time.monotonic()
                print(f"{name}: {done} of {len(numbers)} cases in {shown - started:.0f} s", flush=True)


def _in_a_fork(make: Callable[[World], None], world: World) -> None:
    """Makes the originals in a separate process: this one is forked for the cases, so it must not start threads."""
    process = _FORK.Process(target=make, args=(world,))
    process.start()
    process.join()
    if process.exitcode != 0:
        raise SystemExit("the undisturbed originals cannot be made; see the message above")


def _run_process(
    name: str, function: Callable[..., Outcome], numbers: Sequence[int], *, seed: int, world: World, end: float
) -> Any:
    """Runs cases in a forked process; yields records until the process has ended or the time is over."""
    receiver, sender = _FORK.Pipe(duplex=False)
    process = _FORK.Process(target=_work, args=(name, function, numbers, seed, world, sender))
    process.start()
    sender.close()
    try:
        for number in numbers:
            started = time.monotonic()
            if time.monotonic() > end:
                return
            outcome, alive = _receive(receiver, process, KINDS[name].seconds)
            yield Record(name, seed, number, outcome.verdict, outcome.tried, time.monotonic() - started, outcome.detail)
            if not alive:
                return
    finally:
        _end(process)
        receiver.close()


def _receive(receiver: Connection, process: Any, seconds: float) -> tuple[Outcome, bool]:
    """Waits for the outcome of a case; returns also whether its process can run more cases."""
    if not receiver.poll(seconds):
        return Outcome("lost", detail=f"the case did not end within {seconds:g} s"), False
    try:
        return receiver.recv(), True
    except EOFError:
        process.join()
        code = process.exitcode
        what = signal.Signals(-code).name if code < 0 else f"exit status {code}"
        return Outcome("lost", detail=f"the process that runs the cases died: {what}"), False


def _end(process: Any) -> None:
    """Ends the process of the cases, and the programs that it has started."""
    for pid in _descendants(process.pid):
        end_session(pid)
    process.kill()
    process.join()


def _descendants(pid: int) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/task/*/children"):
        if path.parts[2] == str(pid):
            try:
                children = [int(child) for child in path.read_text().split()]
            except OSError:
                continue
            found += [later for child in children for later in (child, *_descendants(child))]
    return found


def _work(
    name: str,
    function: Callable[..., Outcome],
    numbers: Sequence[int],
    seed: int,
    world: World,
    sender: Connection,
) -> None:
    for number in numbers:
        try:
            outcome = function(random.Random(f"{name}/{seed}/{number}"), world)
        except Exception:
            outcome = Outcome("lost", detail=f"the case itself failed: {traceback.format_exc()[-1500:]}")
        sender.send(outcome)
    os._exit(0)  # without waiting for the threads and destructors of libraries
