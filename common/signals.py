"""Handling of SIGTERM and Ctrl-C: a process ends immediately, or records the signal and finishes its current step.

This module imports nothing slow, so that a command can call `end_on_signals` before its other imports.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

HANDLED = {signal.SIGTERM: "SIGTERM", signal.SIGINT: "Ctrl-C"}
"""The signals that this module handles, and what messages call them."""
EXIT_TERMINATED, EXIT_INTERRUPTED = 143, 130
"""Exit statuses after SIGTERM and Ctrl-C, by convention 128 + the signal's number."""
SAME_PRESS_SECONDS = 0.2
"""A second SIGINT within this time does not count: launchers pass on a signal that the terminal has already sent."""

_program = ""
_statuses = {signal.SIGTERM: EXIT_TERMINATED, signal.SIGINT: EXIT_INTERRUPTED}
_recording = False
_received: int = 0
_interrupted_at = float("-inf")
_before_end: list[Callable[[], object]] = []


def end_on_signals(program: str, *, terminated: int = EXIT_TERMINATED) -> None:
    """Makes SIGTERM and Ctrl-C end this process immediately, with a message of one line instead of a traceback.

    A background thread ends the process, because Python runs signal handlers only in the main thread, and not while
    that is inside native code. Within `recorded`, the first signal is only recorded, but a second Ctrl-C ends the
    process at once.

    Args:
        program: name of the command, for messages.
        terminated: exit status after SIGTERM; after Ctrl-C it is EXIT_INTERRUPTED.
    """
    global _program
    _program, _statuses[signal.SIGTERM] = program, terminated
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    for number in HANDLED:
        signal.signal(number, _on_signal)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    os.register_at_fork(after_in_child=_restore_defaults)
    threading.Thread(target=_watch, args=(reader,), name="signals", daemon=True).start()


@contextmanager
def before_end(action: Callable[[], object]) -> Iterator[None]:
    """Within this context, a signal that ends the process calls `action` first, in any thread; it must be quick."""
    _before_end.append(action)
    try:
        yield
    finally:
        _before_end.remove(action)


@contextmanager
def recorded() -> Iterator[None]:
    """Within this context, a signal does not end the process; `received` returns the first one.

    After `end_on_signals`, a second Ctrl-C does end it.
    """
    global _recording, _received
    outer = _recording, _received
    _recording, _received = True, outer[1] if outer[0] else 0
    previous = {number: signal.signal(number, _on_signal) for number in HANDLED}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
        _recording = outer[0]


def received() -> int:
    """Returns the first signal received within the current or last `recorded` context; 0 if there was none."""
    return _received


def name_of(number: int) -> str:
    """Returns the name of a signal in HANDLED for messages, such as "Ctrl-C" for SIGINT."""
    return HANDLED[signal.Signals(number)]


def exit_status(number: int) -> int:
    """Returns the exit status of a process that ends because of a signal in HANDLED."""
    return _statuses[signal.Signals(number)]


def _on_signal(number: int, frame: FrameType | None) -> None:
    global _received
    if not _recording:
        _end(number, f"stopped by {name_of(number)}")
    _received = _received or number


def _watch(reader: int) -> None:
    global _interrupted_at
    while True:
        for number in os.read(reader, 1):
            if number not in HANDLED:
                continue
            if not _recording:
                _end(number, f"stopped by {name_of(number)}")
            if number == signal.SIGINT:
                now = time.monotonic()
                if SAME_PRESS_SECONDS < now - _interrupted_at < float("inf"):
                    _end(number, "stopped at once by a second Ctrl-C; what was saved before is complete")
                if _interrupted_at == float("-inf"):
                    _say("Ctrl-C: finishing the current step, then saving; press Ctrl-C again to stop at once")
                    _interrupted_at = now


def _end(number: int, text: str) -> None:
    if sys.stderr.isatty():
        os.write(2, b"\x1b[?25h")  # a progress bar may have hidden the cursor
    _say(text)
    for action in _before_end:
        with suppress(Exception):
            action()
    os._exit(exit_status(number))


def _say(text: str) -> None:
    # Not print: another thread may hold the lock of sys.stderr.
    with suppress(OSError):
        os.write(2, f"{_program}: {text}\n".encode())


def _restore_defaults() -> None:
    """Restores the default handlers in a forked child, which would otherwise write its signals to the parent's pipe."""
    with suppress(ValueError):  # the fork was not made by the main thread, and only that may set handlers
        signal.set_wakeup_fd(-1)
        for number in HANDLED:
            if signal.getsignal(number) is _on_signal:
                signal.signal(number, signal.SIG_DFL)
