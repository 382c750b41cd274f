"""What a command is doing, in words: a line when a phase begins, and a sign of life while it lasts.

A command calls `open_log` once; until then, as in tests and notebooks, all functions here are silent. Of several
processes only rank 0 speaks. Needs only the standard library, because the first words come before any slow import; on a
terminal rich adds a spinner with the time.
"""

from __future__ import annotations

import atexit
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from common.terminal import encodable, printable

INTERVAL = 20.0
"""Seconds of silence after which a line says what is still going on."""

_lock = threading.RLock()
_log: _Log | None = None
_hushed = False


class _Log:
    """The words of one command on stderr.

    Args:
        program: name of the command, which begins each line.
        interval: seconds of silence after which a sign of life is printed.
    """

    def __init__(self, program: str, interval: float) -> None:
        self.program, self.interval = program, interval
        self.doing, self.began, self.spoken = "", time.monotonic(), time.monotonic()
        self.spinner: Any = None
        self.live = False
        self._ended = threading.Event()
        threading.Thread(target=self._give_signs_of_life, name="signs of life", daemon=True).start()

    def say(self, text: str) -> None:
        line = encodable(printable(f"{self.program}: {text}"), getattr(sys.stderr, "encoding", None) or "utf-8")
        print(line, file=sys.stderr, flush=True)
        self.spoken = time.monotonic()

    def begin(self, text: str, *, quietly: bool) -> None:
        self.doing, self.began = text, time.monotonic()
        if quietly:
            if self.spinner is not None:
                self.spinner.update(self.spinner.task_ids[0], description=printable(text))
            return
        self.stop_spinner()
        if sys.stderr.isatty() and not self.live:
            self.start_spinner()
        else:
            self.say(text)

    def start_spinner(self) -> None:
        from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

        from common.console import Console

        columns = SpinnerColumn(finished_text=" "), TextColumn("{task.description}", markup=False), TimeElapsedColumn()
        # rich would send stdout to the terminal too, even if it is a file for the result.
        self.spinner = Progress(*columns, console=Console(stderr=True), redirect_stdout=sys.stdout.isatty())
        self.spinner.add_task(printable(self.doing), total=1)
        self.spinner.start()

    def stop_spinner(self) -> None:
        """Leaves the line of the phase, with the time that it took."""
        if self.spinner is not None:
            self.spinner.update(self.spinner.task_ids[0], completed=1)
            self.spinner.stop()
            self.spinner = None

    def close(self) -> None:
        self._ended.set()
        self.stop_spinner()

    def _give_signs_of_life(self) -> None:
        while not self._ended.wait(max(0.01, self.spoken + self.interval - time.monotonic())):
            silent = time.monotonic() - self.spoken
            if silent < self.interval:
                continue
            self.spoken = time.monotonic()
            if self.spinner is None and not self.live and self.doing:
                with suppress(OSError):  # a disk that is full, or nobody who reads
                    seconds = self.spoken - self.began
                    # Steps shorter than the interval follow each other without a word.
                    self.say(f"still {self.doing} ({seconds:.0f} s)" if seconds > self.interval / 2 else self.doing)


def open_log(program: str, *, interval: float = INTERVAL) -> None:
    """Lets this process say what it does, on stderr; on ranks other than 0 of several processes this does nothing.

    Args:
        program: name of the command, which begins each line.
        interval: seconds of silence after which a line says what is still going on.
    """
    global _log
    if os.environ.get("RANK", "0") == "0":
        close_log()
        _log = _Log(program, interval)


def introduce(program: str, text: str, parse: Callable[[], object]) -> None:
    """Answers --help and wrong options, then says what follows: for a command that has yet to import what is slow.

    Args:
        text: what the command is about to do.
        parse: reads the command line.
    """
    parse()
    open_log(program)
    say(text)
    begin("importing what that needs")


@atexit.register
def close_log() -> None:
    """Ends what `open_log` began; the end of the process does too."""
    global _log
    if _log is not None:
        _log.close()
    _log = None


def say(text: str) -> None:
    """Prints a line."""
    with _lock:
        if _log is not None:
            _log.say(text)


def begin(text: str, *, quietly: bool = False) -> None:
    """Begins a phase, which lasts until the next one begins; `text` names it, such as "opening 240,000 clips".

    Args:
        quietly: print it only in a sign of life; for what happens at every step.
    """
    with _lock:
        if _log is not None:
            _log.begin(text, quietly=quietly or _hushed)


@contextmanager
def hushed() -> Iterator[None]:
    """Within this context phases begin quietly, as if all calls of `begin` said so: for a task of many small parts."""
    global _hushed
    before, _hushed = _hushed, True
    try:
        yield
    finally:
        _hushed = before


def note_output(*, live: bool | None = None) -> None:
    """Notes that something else was just printed, so that no sign of life is due.

    Args:
        live: whether a progress bar is on the terminal from now on, which moves by itself; None leaves that as it is.
    """
    with _lock:
        if _log is not None:
            _log.spoken = time.monotonic()
            _log.live = _log.live if live is None else live
            if live:
                _log.stop_spinner()
