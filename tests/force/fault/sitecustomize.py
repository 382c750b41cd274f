"""Makes a folder full or read-only for this Python process after some changes; Python loads this file when it starts.

The environment variable CMACC_FAULT holds the arguments of `install` as JSON. Changes are counted over all processes,
in a file that grows by one byte per change.

An audit hook sees every file that Python opens for writing, and every name that is made, changed or removed. Files that
are open already can still be written to, as after a chmod. A full tmpfs (tests/force/faults.py) covers that case.
"""

from __future__ import annotations

import errno
import json
import os
import sys
import threading

_NAMES = {"os.mkdir": (0,), "os.rename": (0, 1), "os.remove": (0,), "os.rmdir": (0,), "os.link": (1,)}
"""Audit event -> positions of the paths that it changes."""
_busy = threading.local()


def install(folder: str, number: int, after: int, counter: str) -> None:
    """Installs the fault in this process; it cannot be removed.

    Args:
        folder: the folder that is full or read-only.
        number: EROFS, with which every change fails, or ENOSPC or EDQUOT, with which only new files and folders fail.
        after: number of changes that succeed.
        counter: file in which the changes are counted.
    """
    folder = os.path.realpath(folder)

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        if getattr(_busy, "now", False):
            return
        _busy.now = True
        try:
            for path, new in _changed(event, arguments):
                if os.path.realpath(path).startswith(folder) and (number == errno.EROFS or new):
                    _count(counter, after, number, path)
        finally:
            _busy.now = False

    sys.addaudithook(hook)


def _count(counter: str, after: int, number: int, path: str) -> None:
    descriptor = os.open(counter, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    try:
        failing = os.fstat(descriptor).st_size >= after
        os.write(descriptor, b".")
    finally:
        os.close(descriptor)
    if failing:
        raise OSError(number, os.strerror(number), path)


def _changed(event: str, arguments: tuple[object, ...]) -> list[tuple[str, bool]]:
    """Returns the paths that an event changes, and whether each is new."""
    if event == "open":
        path, _, flags = arguments
        writes = isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        paths = [path] if writes else []
    else:
        paths = [arguments[position] for position in _NAMES.get(event, ())]
    names = [os.fsdecode(path) for path in paths if isinstance(path, str | bytes | os.PathLike)]
    if event == "os.mkdir":
        return [(name, True) for name in names if not os.path.exists(name)]
    return [(name, event == "open" and not os.path.exists(name)) for name in names]


if "CMACC_FAULT" in os.environ:
    install(**json.loads(os.environ["CMACC_FAULT"]))
