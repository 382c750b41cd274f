"""A lease on a folder in an object store, so that two processes do not write the same folder.

Stores have no locks. The holder of a lease keeps a small file in the folder and rewrites it every few seconds; whoever
finds such a file waits until it has not changed for LEASE_SECONDS, and then takes it over.
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
    "hf": "the Hub keeps every version of every file as a commit of its own, so files that change cannot be kept there",
    "http": "files cannot be written to a web server",
    "https": "files cannot be written to a web server",
}
"""Schemes of stores in which no folder can be kept up to date, and why."""
RENEW_SECONDS = 15.0
"""Seconds between two renewals of a lease."""
LEASE_SECONDS = 60.0
"""Seconds without a renewal after which the holder of a lease is taken for dead."""
POLL_SECONDS = 2.0
"""Seconds between two looks at somebody else's lease."""
SETTLE_SECONDS = 2.0
"""Seconds after which a process that took over a lease looks whether another one did so too."""

log = logging.getLogger(__name__)


class LeaseTaken(Exception):
    """Raised if another process holds the lease; the message names it."""


class Lease:
    """The lease whose file is `path`, held from construction to `release`, and renewed by a thread.

    It is not a lock: a holder that cannot reach the store for longer than LEASE_SECONDS may lose it to another process,
    and notices that (`lost`) at its next renewal, not before. Until then both may write.

    Args:
        path: file of the lease.
        place: what only one process can hold at a time, by a real lock that the caller holds, such as a folder of this
            machine; a lease that an ended process left from the same place is taken over at once.
        what: what is leased, for messages.

    Raises:
        LeaseTaken: another process holds the lease.
        StoreError: the store cannot be read or written, or is no place for files that change.
    """

    def __init__(self, path: RemotePath, *, place: str, what: str) -> None:
        if why := _UNSUITABLE.get(split_url(str(path))[0]):
            raise StoreError(f"{path.parent} cannot be used: {why}; give a folder of this machine or an s3:// URL")
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
        self._thread = threading.Thread(target=self._keep, name="lease", daemon=True)
        self._thread.start()

    def _acquire(self) -> None:
        while not self._path.create(self._content()):
            found = self._read()
            if found is None:  # it was released a moment ago
                continue
            if self._is_mine(found):  # the store did create it, but its answer was lost
                return
            if found.get("place") != self._mine["place"] and not self._outlives(found):
                continue
            self._path.write_bytes(self._content())
            # Whoever writes last wins; the others see that.
            time.sleep(SETTLE_SECONDS)
            found = self._read()
            if found is not None and not self._is_mine(found):
                raise self._taken(found)
            if found is not None:
                return

    def _outlives(self, found: dict[str, Any]) -> bool:
        """Waits until the holder is taken for dead, and returns True; False if it has released the lease.

        Raises:
            LeaseTaken: the holder has renewed the lease.
        """
        say(f"{self._what} was in use by {found.get('holder')}; waiting {LEASE_SECONDS:.0f} s to see if it still is")
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
        return LeaseTaken(f"{self._what} is in use by {found.get('holder', 'another process')}")

    def _keep(self) -> None:
        while not self._ended.wait(RENEW_SECONDS):
            try:
                self.renew()
            except Exception as error:  # any error would otherwise end only this thread, unnoticed
                log.warning("cannot renew the lease on %s: %s", self._what, error)
            if self.lost.is_set():
                return

    def renew(self) -> None:
        """Renews the lease, or sets `lost` if another process holds it now.

        Raises:
            StoreError: the store cannot be read or written.
        """
        found = self._read()
        if found is not None and not self._is_mine(found):
            log.warning("%s; nothing is written there any more", self._taken(found))
            self.lost.set()
            return
        self._mine["renewals"] += 1
        if not self._ended.is_set():
            self._path.write_bytes(self._content())

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
        except (ValueError, RecursionError):  # anything may be at that URL
            return {}
        return found if isinstance(found, dict) else {}


def _boot() -> str:
    """A random name that the kernel of this machine chose when it started: host names need not be unique."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return str(uuid.getnode())
