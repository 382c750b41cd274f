"""Locks that the kernel releases when their process ends, and room on a disk."""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from pathlib import Path

_FLOCK = "hhqqi4x"  # struct flock of 64-bit Linux
_OFD_SETLK = 37  # F_OFD_SETLK; the constant is missing from some builds of Python


def allocate(descriptor: int, size: int) -> None:
    """Gives a file its length and its place on the disk, so that a full disk is noticed at once."""
    if not size:
        return
    try:
        os.posix_fallocate(descriptor, 0, size)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):
            raise
        os.ftruncate(descriptor, size)


def is_abandoned(part: Path) -> bool:
    """Whether no process holds the lock of an unfinished copy."""
    try:
        descriptor = os.open(part, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True


def lock_byte(descriptor: int, place: int, kind: int) -> bool:
    """Locks or unlocks a byte for this opening of the file; False if another opening's lock is in the way."""
    request = struct.pack(_FLOCK, kind, os.SEEK_SET, place, 1, 0)
    try:
        fcntl.fcntl(descriptor, _OFD_SETLK, request)
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES):
            return False
        raise
    return True
