"""A lease on a folder in an object store, so that two processes do not write the same folder.

Stores have no locks. The holder of a lease keeps a small file in the folder and rewrites it every RENEW_SECONDS. A
process that finds such a file watches it for LEASE_SECONDS. If the file changes, the folder is in use; if not, the
process takes the lease over.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
import time
import uuid
from pathlib import Path
from typing import Any

from common.phases import say
from common.stores.errors import StoreError, StoreFileNotFound
from common.stores.paths import RemotePath
from common.stores.urls import split_url

_UNSUITABLE = {
    "hf": "the Hub keeps every version of a file as a commit of its own, so it is no place for files that change often",
    "http": "files cannot be written to a web server",
    "https": "files cannot be written to a web server",
}
"""Schemes of stores in which no lease can be kept, because a file cannot be rewritten often, and why."""
RENEW_SECONDS = 15.0
"""Interval in seconds at which the holder renews its lease."""
LEASE_SECONDS = 60.0
"""Seconds without a renewal after which a lease has expired: its holder is taken for dead."""
POLL_SECONDS = 2.0
"""Interval in seconds at which a process that waits reads the lease of another one."""
SETTLE_SECONDS = 2.0
"""Seconds after which a process that took over a lease checks whether another one has overwritten it."""

log = logging.getLogger(__name__)


class LeaseTaken(Exception):
    """Raised if another process holds the lease; the message names it."""


class Lease:
    """The lease whose file is `path`, held from construction to `release`, and renewed by a thread.

    It is not a lock: a holder that cannot reach the store for longer than LEASE_SECONDS may lose it to another process,
    and notices that (`lost`) at its next renewal, not before. Until then both may write.

    Args:
        path: file of the lease.
        place: name of something on this machine, such as a folder, that the caller has locked with a real lock. A lease
            with the same `place` is taken over at once: the process that left it has ended, as it lost that lock.
        what: what is leased, for messages.

    Raises:
        LeaseTaken: another process holds the lease.
        StoreError: the store cannot be read or written, or is no place for files that change often.
    """

    def __init__(self, path: RemotePath, *, place: str, what: str) -> None:
        if why := _UNSUITABLE.get(split_url(str(path))[0]):
            raise StoreError(f"{path.parent} cannot be used: {why}; give a folder on this machine or an s3:// URL")
        self._path, self._what = path, what
        self._mine: dict[str, Any] = {
            "holder": f"process {os.getpid()} on {socket.gethostname()}",
            "place": f"{socket.gethostname()}:{_boot()}:{place}",
            "token": uuid.uuid4().hex,
            "renewals": 0,
        }
        self.lost = threading.Event()
        self._ended = threading.Event()
        self._acquire()
        self._renewed = time.monotonic()
        self._thread = threading.Thread(target=self._keep_renewing, name="lease", daemon=True)
        self._thread.start()

    def _acquire(self) -> None:
        while not self._path.create(self._content()):
            found = self._read()
            if found is None:  # it was released a moment ago
                continue
            if self._is_mine(found):  # the store did create it, but its response was lost
                return
            if found.get("place") != self._mine["place"] and not self._wait_for_expiry(found):
                continue
            self._path.write_bytes(self._content())
            # If several processes take it over at once, the last one to write wins, and the others find its lease.
            time.sleep(SETTLE_SECONDS)
            found = self._read()
            if found is not None and not self._is_mine(found):
                raise self._taken(found)
            if found is not None:
                return

    def _wait_for_expiry(self, found: dict[str, Any]) -> bool:
        """Waits until the lease `found` has expired, and returns True; False if it was released before.

        Raises:
            LeaseTaken: the holder has renewed the lease.
        """
        say(f"{self._what} was in use by {_holder(found)}; waiting {LEASE_SECONDS:.0f} s to see if it still is")
        end = time.monotonic() + LEASE_SECONDS
        while time.monotonic() < end:
            time.sleep(POLL_SECONDS)
            now = self._read()
            if now is None:
                return False
            if now != found:
                raise self._taken(now)
        return True

    def _taken(self, found: dict[str, Any]) -> LeaseTaken:
        return LeaseTaken(f"{self._what} is in use by {_holder(found)}")

    def _keep_renewing(self) -> None:
        while not self._ended.wait(RENEW_SECONDS):
            try:
                self.renew()
            except Exception as error:  # any error would otherwise end only this thread, unnoticed
                log.warning("cannot renew the lease on %s: %s", self._what, error)
            if self.lost.is_set():
                return

    def renew(self) -> None:
        """Renews the lease, or sets `lost` if another process holds it now or held it since the last renewal.

        Raises:
            StoreError: the store cannot be read or written.
        """
        found = self._read()
        if found is not None and not self._is_mine(found):
            self._lose(str(self._taken(found)))
            return
        if found is None and time.monotonic() - self._renewed > LEASE_SECONDS:
            self._lose(f"{self._what} was used by another process while this one could not renew its lease")
            return
        self._mine["renewals"] += 1
        if not self._ended.is_set():
            self._path.write_bytes(self._content())
            self._renewed = time.monotonic()

    def _lose(self, reason: str) -> None:
        log.warning("%s; this process no longer writes there", reason)
        self.lost.set()

    def release(self) -> None:
        """Ends the lease; if the store cannot be reached, others wait until it has expired."""
        self._ended.set()
        self._thread.join(timeout=POLL_SECONDS)
        try:
            found = self._read()
            if found is not None and self._is_mine(found):
                self._path.unlink(missing_ok=True)
        except StoreError as error:
            log.warning("cannot release the lease on %s: %s", self._what, error)

    def _is_mine(self, found: dict[str, Any]) -> bool:
        return found.get("token") == self._mine["token"]

    def _content(self) -> bytes:
        return (json.dumps(self._mine) + "\n").encode()

    def _read(self) -> dict[str, Any] | None:
        try:
            found = json.loads(self._path.read_bytes())
        except StoreFileNotFound:
            return None
        except (ValueError, RecursionError):  # it is no lease, since a user may have put any file there
            return {}
        return found if isinstance(found, dict) else {}


def _holder(found: dict[str, Any]) -> str:
    return str(found.get("holder", "another process"))


def _boot() -> str:
    """A random id that the kernel chose when this machine started; needed because host names may not be unique."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return str(uuid.getnode())
