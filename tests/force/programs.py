"""Starts the programs under test, each process in its own session, and finds and kills the processes of a session."""

from __future__ import annotations

import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
_FORK = multiprocessing.get_context("fork")


class Program:
    """A running program.

    Args:
        pids: the processes that were started; each leads its own session.
        status: returns the exit status of the i-th of them, or None while it runs.
        log: the file that receives the output.
    """

    def __init__(self, pids: Sequence[int], status: Callable[[int], int | None], log: Path) -> None:
        self.pids, self.log, self._status = list(pids), log, status
        self.pid = self.pids[0]

    @property
    def returncode(self) -> int | None:
        """The first exit status that is not 0, once all processes have ended."""
        codes = [self._status(index) for index in range(len(self.pids))]
        return None if None in codes else next((code for code in codes if code), 0)

    def poll(self) -> int | None:
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Waits for the exit status; raises TimeoutError after `timeout` seconds."""
        end = time.monotonic() + (float("inf") if timeout is None else timeout)
        while (code := self.returncode) is None:
            if time.monotonic() > end:
                raise TimeoutError(f"still running after {timeout:g} s")
            time.sleep(0.01)
        return code

    def output(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace") if self.log.exists() else ""


def run_command(arguments: Sequence[str], log: Path, environment: Mapping[str, str] | None = None) -> Program:
    """Starts `python ARGUMENTS` in the repository; its output is appended to `log`."""
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, *arguments],
            cwd=ROOT,
            env={**os.environ, **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    return Program([process.pid], lambda _: process.poll(), log)


def fork_script(
    script: str, arguments: Sequence[str], log: Path, *, ranks: int = 1, port: int = 0, before: Callable[[], Any] = int
) -> Program:
    """Runs a script of the repository as `python SCRIPT ARGUMENTS` would, forked from this warm process.

    The modules that the script imports are loaded already, which saves ten seconds per start. This process must not
    have started any thread.

    Args:
        ranks: number of processes, which join one group as torchrun's do.
        port: port at which they meet.
        before: called in each process before the script.
    """
    processes: list[Any] = []
    for rank in range(ranks):
        world = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(ranks), "LOCAL_WORLD_SIZE": str(ranks)}
        world |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "GLOO_SOCKET_IFNAME": "lo"}
        target = (script, list(arguments), log, world if ranks > 1 else {}, before)
        process = _FORK.Process(target=_become, args=target)
        process.start()
        processes.append(process)
    return Program([process.pid for process in processes], lambda index: processes[index].exitcode, log)


def _become(script: str, arguments: list[str], log: Path, world: dict[str, str], before: Callable[[], Any]) -> None:
    os.setsid()
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(descriptor, stream)
    sys.stdout, sys.stderr = (open(stream, "w", buffering=1, closefd=False) for stream in (1, 2))  # noqa: SIM115
    os.chdir(ROOT)
    os.environ.update(world)
    sys.argv = [script, *arguments]
    before()
    try:
        runpy.run_path(str(ROOT / script), run_name="__main__")
    except SystemExit:
        raise
    except BaseException:
        traceback.print_exc()
        raise SystemExit(1) from None


def members(session: int) -> list[int]:
    """Returns the processes of a session that still run."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, session_id = path.read_text().rpartition(")")[2].split()[:4]
        except OSError:
            continue
        if int(session_id) == session and state != "Z":
            found.append(int(path.parent.name))
    return found


def end_session(session: int) -> None:
    """Kills every process of a session."""
    for pid in members(session):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def left_over(program: Program, *, within: float) -> list[int]:
    """Returns the processes of an ended program that are still there after `within` seconds."""
    end = time.monotonic() + within
    while (left := [pid for session in program.pids for pid in members(session)]) and time.monotonic() < end:
        time.sleep(0.05)
    return left


def kill(program: Program) -> None:
    """Kills the program with SIGKILL, with all processes that it has started."""
    for pid in program.pids:
        end_session(pid)
    program.wait(30)
