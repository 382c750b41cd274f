"""Runs cases in processes that may crash, hang or exhaust memory, and collects the findings.

A case depends only on (seed, number), so that each case can be repeated on its own.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import resource
import shutil
import signal
import sys
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from common.phases import begin
from tests.fuzz.cases import MAY_CRASH, Case, Finding, World, working_folder

SHARES = {
    **{"yaml": 12, "override": 20, "labels": 20, "names": 6, "manifest": 12, "shard": 10, "index": 8},
    **{"staged": 6, "checkpoint": 2, "container": 4},
}
"""Number of cases of each kind per hundred."""
_SCHEDULE = [kind for kind, share in SHARES.items() for _ in range(share)]
_CASE_CPU_SECONDS = 20
"""CPU time in seconds after which a case counts as hanging; it does not depend on the load of the machine."""
_CASE_SECONDS = 200
"""Wall-clock time in seconds after which a case counts as hanging, even if it only waits."""
_STARTUP_SECONDS = 300
"""Wall-clock time in seconds within which a process must start."""
_MEMORY = 2 * 2**30
"""Address space in bytes that a process may use in addition to what it occupies at startup."""
_CASES_PER_PROCESS = 10_000
"""Number of cases after which a process is replaced, to free the memory that libraries leak."""


def kind_of(case: int) -> str:
    """Returns the kind of the case with this number."""
    return _SCHEDULE[case % 100]


@dataclass
class Report:
    """Results of a campaign.

    Attributes:
        outcomes: number of cases per kind and result.
        seconds: time spent per kind.
        findings: number and description of each case that did not end as required.
        total: number of cases that the campaign has.
        started: when it began, in seconds of time.monotonic().
    """

    outcomes: dict[str, Counter[str]] = field(default_factory=dict)
    seconds: Counter[str] = field(default_factory=Counter)
    findings: list[tuple[int, str]] = field(default_factory=list)
    total: int = 0
    started: float = field(default_factory=time.monotonic)

    def note(self, case: int, result: str, seconds: float) -> None:
        """Counts the result of a case."""
        self.outcomes.setdefault(kind_of(case), Counter())[result] += 1
        self.seconds[kind_of(case)] += seconds

    def progress(self) -> str:
        """How far the campaign is, in words."""
        done = sum(sum(outcomes.values()) for outcomes in self.outcomes.values())
        left = (time.monotonic() - self.started) / max(done, 1) * (self.total - done)
        return f"{done:,} of {self.total:,} cases, {len(self.findings)} findings, {left:.0f} s left"


@dataclass
class _Progress:
    """State shared with the parent process, which reads it if the process dies.

    Attributes:
        stage: name of the step that the case is in; empty if it has announced none.
        running: number of the case; -1 before the first.
    """

    stage: Any
    running: Any

    @classmethod
    def new(cls) -> _Progress:
        context = multiprocessing.get_context("spawn")
        return cls(stage=context.Array("c", 64), running=context.Value("q", -1))


def run(cases: Sequence[int], *, seed: int, announce: bool = False) -> Report:
    """Runs the cases one after the other, and starts a new process whenever one has died."""
    report, folder = Report(total=len(cases)), working_folder()
    try:
        left = list(cases)
        while left:
            done = _run_process(left[:_CASES_PER_PROCESS], seed, folder, report, announce)
            left = left[done:]
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return report


def _run_process(cases: Sequence[int], seed: int, folder: Path, report: Report, announce: bool) -> int:
    """Runs cases in a new process until it ends; returns the number of finished cases."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    progress = _Progress.new()
    process = context.Process(target=_work, args=(cases, seed, folder, sender, progress), daemon=False)
    process.start()
    sender.close()
    done, since, used = 0, time.monotonic(), -1.0
    try:
        while done < len(cases):
            limit = _CASE_SECONDS if progress.running.value >= 0 else _STARTUP_SECONDS
            if receiver.poll(5):
                try:
                    case, result, finding, seconds = receiver.recv()
                except EOFError:
                    process.join()
                    return done + _lost(cases[done], _death(process.exitcode), progress, report, announce)
                _note(report, case, result, finding, seconds, announce)
                done, since, used = done + 1, time.monotonic(), -1.0
                continue
            now = _cpu_seconds(process.pid)
            used = now if used < 0 or progress.running.value < 0 else used
            busy = now > used + _CASE_CPU_SECONDS
            if busy or time.monotonic() >= since + limit:
                process.kill()
                process.join()
                return done + _lost(cases[done], "a hang", progress, report, announce)
    finally:
        receiver.close()
        if done < len(cases):
            process.kill()
        process.join()
    return done


def _cpu_seconds(pid: int | None) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _note(report: Report, case: int, result: str, finding: str, seconds: float, announce: bool) -> None:
    report.note(case, result, seconds)
    if finding:
        report.findings.append((case, finding))
    if finding and announce:
        print(f"case {case} ({kind_of(case)}): {finding}", flush=True)
    if announce:
        begin(report.progress(), quietly=True)


def _lost(case: int, what: str, progress: _Progress, report: Report, announce: bool) -> int:
    """Records a case whose process died, which is correct only in stages that run in worker processes."""
    stage = progress.stage.value.decode()
    if progress.running.value < 0:
        raise RuntimeError(f"the process for case {case} did not start: {what}")
    finding = "" if stage == MAY_CRASH else f"{what} in {stage or 'the case'}"
    _note(report, case, f"contained: {what}" if not finding else "FINDING", finding, 0.0, announce)
    return 1


def _death(code: int | None) -> str:
    return signal.Signals(-code).name if code is not None and code < 0 else f"exit status {code}"


def _work(cases: Iterable[int], seed: int, folder: Path, sender: Connection, progress: _Progress) -> None:
    kinds = _kinds()
    world = World(folder=folder, stage=lambda stage: setattr(progress.stage, "value", stage.encode()))
    # The originals are made before the guard is installed, because preparation starts processes.
    _ = world.media, world.prepared, world.checkpoint
    guard = _restrict(folder)
    for case in cases:
        progress.stage.value = b""
        progress.running.value = case
        started = time.monotonic()
        result, finding = _decide(kinds[kind_of(case)], random.Random(f"{seed}/{case}"), world, guard)
        sender.send((case, result, finding, time.monotonic() - started))
    os._exit(0)  # without waiting for the threads and destructors of libraries


def _decide(case: Case, rng: random.Random, world: World, guard: Any) -> tuple[str, str]:
    guard.active, guard.seen[:] = True, []
    try:
        result, finding = case(rng, world), ""
    except Finding as error:
        result, finding = "FINDING", str(error)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        trace = "".join(traceback.format_exception(error, limit=-4))
        result, finding = "FINDING", f"{type(error).__name__}: {str(error)[:300]}\n{trace[-2500:]}"
    finally:
        guard.active = False
    if guard.seen:
        return "FINDING", f"{guard.seen[0]}\n{finding}"
    return result, finding


def _kinds() -> dict[str, Case]:
    from tests.fuzz import data_cases, media_cases, text_cases

    return {
        **{"yaml": text_cases.yaml_file, "override": text_cases.override, "labels": text_cases.labels_csv},
        **{"names": text_cases.names, "manifest": data_cases.manifest, "shard": data_cases.shard},
        **{"index": data_cases.index, "staged": data_cases.staged_sample, "checkpoint": data_cases.checkpoint},
        "container": media_cases.container,
    }


def _restrict(folder: Path) -> Any:
    import logging

    import av.logging
    import torch

    from pipeline.load.reference.processes import decoding_processes
    from tests.fuzz.guard import Guard

    torch.set_num_threads(1)
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    av.logging.set_level(None)
    sys.stderr = open(os.devnull, "w")  # noqa: SIM115 - stays open until the process ends
    os.dup2(sys.stderr.fileno(), 2)
    # Starts the decord loader's processes before this one is limited and watched.
    decoding_processes(1).schedule(len, args=((),)).result()
    with open("/proc/self/statm", encoding="ascii") as file:
        present = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (present + _MEMORY, present + _MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    return Guard(folder)
