"""Heartbeats: every process publishes that it is alive and how far it is, so that a hung process can be named."""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
import time
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

from torch.distributed import PrefixStore, Store, TCPStore

INTERVAL = 1.0
"""Seconds between two heartbeats."""


class Heartbeat:
    """Sends this process's heartbeats from a thread, and ends the process if another one has stopped.

    The thread has its own connection to the store, because the main thread may wait in the store for minutes.

    Args:
        host, port: address of the store of the process group.
        prefix: distinguishes the attempts of a launcher that restarts the processes.
        rank, size: rank of this process, and number of processes.
        timeout: seconds without progress, here and in another process, after which that other one counts as hung.
    """

    def __init__(self, host: str, port: int, *, prefix: str, rank: int, size: int, timeout: float) -> None:
        self.rank, self.size, self.timeout = rank, size, timeout
        self._where = (host, port)
        limit = timedelta(seconds=max(5.0, 3 * INTERVAL))
        client = TCPStore(host, port, is_master=False, timeout=limit, wait_for_workers=False)
        self._store: Store = PrefixStore(f"heartbeat {prefix}", client)
        self._count, self._doing, self._last_beat = 0, "starting", time.monotonic()
        self._ticks, self._farewell = 0, ""
        self._seen: dict[int, tuple[int, float]] = {}  # rank: (its latest tick, when this process first saw that)
        self._store_answered = time.monotonic()
        self._publish()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)
        self._thread.start()

    def beat(self, doing: str) -> None:
        """Records progress; `doing` is what the main thread does from now on."""
        self._count, self._doing, self._last_beat = self._count + 1, doing, time.monotonic()

    def stop(self) -> None:
        """Ends the thread."""
        self._stopped.set()
        self._thread.join(timeout=2 * INTERVAL)

    def say_farewell(self, reason: str) -> None:
        """Tells the other processes why this one ends."""
        self._farewell = reason
        with suppress(RuntimeError):
            self._publish()

    def explain(self) -> str:
        """Says which other process has ended, hangs or is behind; takes a few heartbeats' time."""
        before = self._others()
        if all(other is not None and not other["farewell"] for other in before.values()):
            time.sleep(2.5 * INTERVAL)
        return self._describe(before, self._others())

    def _describe(self, before: dict[int, Any], after: dict[int, Any]) -> str:
        lines = []
        for rank, now in after.items():
            if now is None:
                continue
            who = f"rank {rank} of {self.size} ({now['host']}, process {now['pid']})"
            if now["farewell"]:
                lines.append(f"{who} has ended: {now['farewell']}")
            elif before.get(rank) is not None and now["ticks"] == before[rank]["ticks"]:
                lines.append(f"{who} no longer responds: it was killed, has crashed or is stopped ({now['doing']})")
            elif now["count"] < self._count:
                lines.append(f"{who} is alive but has made no progress for {now['idle']:.0f} s: {now['doing']}")
        if not after:
            host, port = self._where
            lines.append(f"rank 0, or torchrun, at {host}:{port} no longer responds")
        return "; ".join(lines) or f"no process is behind; this one, rank {self.rank}, was at: {self._doing}"

    def _run(self) -> None:
        while not self._stopped.wait(INTERVAL):
            with suppress(RuntimeError):
                self._publish()
                self._store_answered = time.monotonic()
            if time.monotonic() - self._last_beat > self.timeout:
                self._exit_if_others_hang()

    def _exit_if_others_hang(self) -> None:
        """Ends this process if another one is silent or behind, or if the store no longer answers."""
        now, others = time.monotonic(), self._others()
        for rank, other in others.items():
            if other is not None and other["ticks"] != self._seen.get(rank, (-1, 0.0))[0]:
                self._seen[rank] = other["ticks"], now
        silent = {rank for rank, (_, since) in self._seen.items() if now - since > max(5 * INTERVAL, 3.0)}
        behind = {rank for rank, other in others.items() if other is not None and other["count"] < self._count}
        if silent or behind or now - self._store_answered > self.timeout:
            print(
                f"{Path(sys.argv[0]).name}: no progress for {self.timeout:g} s (train.timeout_seconds): "
                f"{self.explain()}; --resume auto resumes from the newest checkpoint",
                file=sys.stderr,
                flush=True,
            )
            os._exit(2)

    def _publish(self) -> None:
        self._ticks += 1
        value = {
            "ticks": self._ticks,
            "count": self._count,
            "doing": self._doing,
            "idle": time.monotonic() - self._last_beat,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "farewell": self._farewell,
        }
        self._store.set(str(self.rank), json.dumps(value))

    def _others(self) -> dict[int, Any]:
        """The last heartbeats of the other processes, None for one that has sent none; {} without the store."""
        found: dict[int, Any] = {}
        with suppress(RuntimeError):
            for rank in range(self.size):
                if rank != self.rank:
                    known = self._store.check([str(rank)])
                    found[rank] = json.loads(self._store.get(str(rank))) if known else None
            return found
        return {}
