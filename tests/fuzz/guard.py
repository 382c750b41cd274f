"""Detects a case that writes files outside its folder, starts a program, opens a connection or loads a pickle."""

from __future__ import annotations

import os
import sys
import tempfile
import threading
from pathlib import Path

import torchvision.models  # noqa: F401  (models import it when they are built, and its import writes to a cache folder)

tempfile.gettempdir()  # finds the folder for temporary files by writing to it

_STARTS = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "pty.spawn")
_FORBIDDEN = ("pickle.find_class", "socket.connect", "socket.getaddrinfo", *_STARTS)
_CHANGES = {
    "os.mkdir": ((0, 2),),
    "os.rmdir": ((0, 1),),
    "os.remove": ((0, 1),),
    "os.rename": ((0, 2), (1, 3)),
    "os.link": ((1, 3),),
    "os.symlink": ((1, 2),),
    "os.chmod": ((0, 2),),
    "os.utime": ((0, 3),),
    "os.truncate": ((0, None),),
    "shutil.rmtree": ((0, None),),
    "shutil.move": ((0, None), (1, None)),
}
"""Audit event -> positions, in its arguments, of (path, folder descriptor) for each path that it changes."""


class Forbidden(BaseException):
    """A forbidden action; a BaseException, so that no `except Exception` in the tested code catches it."""


class Guard:
    """An audit hook that works while `active` is set, in this thread and in threads that start later.

    Python cannot remove audit hooks, so make one guard per process.

    Args:
        folder: the only folder in which files may be changed.

    Attributes:
        seen: descriptions of the forbidden actions.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = os.path.realpath(folder)
        self.active = False
        self.seen: list[str] = []
        # The threads of the pool that decodes raw videos load its own pickles and replace dead processes.
        self._others = {thread.ident for thread in threading.enumerate()} - {threading.get_ident()}
        sys.addaudithook(self._hook)

    def _hook(self, event: str, arguments: tuple[object, ...]) -> None:
        if not self.active or threading.get_ident() in self._others:
            return
        if event in _FORBIDDEN:
            self._forbid(f"{event} {arguments!r:.300}")
        if event == "open":
            path, mode, flags = arguments
            writes = isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC)
            if writes or (isinstance(mode, str) and set(mode) & set("wax+")):
                self._require_inside(event, path)
        for position, base in _CHANGES.get(event, ()):
            self._require_inside(event, arguments[position], arguments[base] if base is not None else -1)

    def _require_inside(self, event: str, path: object, base: object = -1) -> None:
        if isinstance(path, int) or path == os.devnull:
            return
        where = os.fsdecode(path)  # type: ignore[arg-type]
        if isinstance(base, int) and base >= 0:
            where = os.path.join(os.readlink(f"/proc/self/fd/{base}"), where)
        # A link is created or removed at its own path, not at its target.
        real = os.path.join(os.path.realpath(os.path.dirname(where) or "."), os.path.basename(where))
        if os.path.normpath(real) != self._folder and not os.path.normpath(real).startswith(self._folder + os.sep):
            self._forbid(f"{event} outside the folder: {where!r}")

    def _forbid(self, what: str) -> None:
        self.seen.append(what)
        raise Forbidden(what)
