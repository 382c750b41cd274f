"""The lock of a run folder: two runs in one folder would mix their files."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import socket
import time
from pathlib import Path

from settings import ConfigError

NAME = "run.lock"
_PATIENCE = 2.0
"""Seconds to wait for a process that is just ending, such as the previous attempt of a scheduler."""
_UNSUPPORTED = {errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}
"""Errors of file systems that do not support locks."""

log = logging.getLogger(__name__)


class RunLock:
    """An exclusive lock on a run folder; the kernel frees it when the process ends, however it ends.

    On a file system without locks, a warning is logged and the run continues without a lock.

    Raises:
        ConfigError: another process holds the lock, or the folder cannot be written to.
    """

    def __init__(self, folder: Path) -> None:
        path = folder / NAME
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise ConfigError(
                f"cannot write to the run folder {folder}: {error.strerror}; choose a different run_dir, or repair "
                "its permissions"
            ) from None
        try:
            self._acquire(folder)
        except ConfigError:
            os.close(self._file)
            raise

    def _acquire(self, folder: Path) -> None:
        deadline = time.monotonic() + _PATIENCE
        while True:
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() < deadline:
                    time.sleep(0.1)
                    continue
                holder = os.pread(self._file, 1000, 0).decode(errors="replace").strip() or "another process"
                raise ConfigError(
                    f"{folder} is in use by {holder}: wait until that run has ended, or choose a different run_dir"
                ) from None
            except OSError as error:
                if error.errno not in _UNSUPPORTED:
                    raise ConfigError(f"cannot lock the run folder {folder}: {error.strerror}") from None
                log.warning("%s cannot be locked (%s): do not start a second run there", folder, error.strerror)
            break
        self._name_holder()

    def _name_holder(self) -> None:
        try:
            os.ftruncate(self._file, 0)
            os.pwrite(self._file, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
        except OSError:  # such as a full disk, in which case the lock is still held
            pass

    def release(self) -> None:
        """Frees the lock; the file stays, because another process may be locking it at this moment."""
        os.close(self._file)
