"""Sends a run's metrics to a tracker from a thread of its own, so that no tracker stops or slows the run."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol

from common.phases import begin
from settings import Config, ConfigError

START_SECONDS = 60.0
"""Time in seconds within which the tracker of a new run must start."""
CLOSE_SECONDS = 20.0
"""Time in seconds that the end of a run waits for the tracker to take the last lines."""
MOST_WAITING = 10_000
"""Largest number of lines that wait for a slow tracker; some 20 MB."""

log = logging.getLogger(__name__)


class Tracker(Protocol):
    """A run within a tracker. All calls come from one thread; they may take any time and raise anything."""

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Records the metrics of a step; a step may have several lines, with different metrics."""

    def finish(self) -> None:
        """Sends what has yet to be sent, and marks the run as ended."""


@dataclass(frozen=True, kw_only=True)
class TrackerKind:
    """One of the trackers that a run may use."""

    title: str
    """Its name in messages."""
    package: str
    """The package that it needs, which is imported only if the run uses the tracker."""
    install: str
    """The arguments of `pip install` that install the package."""
    advice: str
    """What to do if the tracker does not start, in the middle of a sentence."""
    start: Callable[[Path, Config], Tracker]
    """Begins a run within the tracker, or continues the one whose id is in the run folder."""


class Sink:
    """Hands the metrics of a run to one tracker.

    `write` only appends to a queue. The first failure is logged as one warning, and from then on nothing is sent:
    metrics.jsonl has all numbers in any case.

    Args:
        key: the setting `log.KEY` that asks for the tracker.
        kind: the tracker.
        run_dir: the run's folder, which keeps the tracker's id of the run.
        config: all settings, which the tracker shows with the run.
        already_sent: the last step that the run had logged before it was resumed; lines up to it are not sent again.
        resumed: whether the run has made steps. A tracker that does not start must not end a run that has.

    Raises:
        ConfigError: the package is missing, or the tracker of a new run does not start.
    """

    def __init__(
        self, key: str, kind: TrackerKind, run_dir: Path, config: Config, *, already_sent: int, resumed: bool
    ) -> None:
        require_package(key, kind)
        self._kind, self._already_sent, self._resumed = kind, already_sent, resumed
        self._lines: queue.SimpleQueue[tuple[int, dict[str, float]] | None] = queue.SimpleQueue()
        self._failed, self._started = threading.Event(), threading.Event()
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._work, args=(run_dir, config), name=f"log.{key}", daemon=True)
        self._thread.start()
        if not resumed:
            self._require_start(key)

    def _require_start(self, key: str) -> None:
        begin(f"starting {self._kind.title}")
        if self._started.wait(START_SECONDS) and self._error is None:
            return
        self._failed.set()
        why = self._error or f"no answer in {START_SECONDS:.0f} s"
        raise ConfigError(
            f"log.{key}=true, but {self._kind.title} did not start ({why}): {self._kind.advice}, or set log.{key}=false"
        ) from self._error

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Queues the metrics of a step; returns at once."""
        if self._failed.is_set() or step <= self._already_sent:
            return
        if self._lines.qsize() >= MOST_WAITING:
            self._fail(f"{MOST_WAITING:,} lines are waiting")
        else:
            self._lines.put((step, dict(metrics)))

    def close(self) -> None:
        """Waits until the tracker has taken all lines, but at most CLOSE_SECONDS."""
        if not self._failed.is_set():
            begin(f"sending the last metrics to {self._kind.title}")
        self._lines.put(None)
        self._thread.join(0.0 if self._failed.is_set() else CLOSE_SECONDS)
        if self._thread.is_alive():
            self._fail(f"it did not take the last lines in {CLOSE_SECONDS:.0f} s")

    def _work(self, run_dir: Path, config: Config) -> None:
        try:
            tracker = self._kind.start(run_dir, config)
        except Exception as error:  # trackers raise types of their own, which cannot be named without importing them
            self._error = error
            if self._resumed:
                self._fail(str(error))
            return
        finally:
            self._started.set()
        try:
            while (line := self._lines.get()) is not None:
                if not self._failed.is_set():
                    tracker.log(*line)
            tracker.finish()
        except Exception as error:
            self._fail(str(error))

    def _fail(self, why: str) -> None:
        if not self._failed.is_set():
            self._failed.set()
            log.warning("%s failed (%s); the run continues, and metrics.jsonl has all numbers", self._kind.title, why)


def require_package(key: str, kind: TrackerKind) -> None:
    """Raises ConfigError if the package that `log.KEY` needs is not installed; imports nothing."""
    if find_spec(kind.package) is None:
        raise ConfigError(
            f"log.{key}=true needs the package {kind.package}, which is not installed: pip install {kind.install}, "
            f"or set log.{key}=false (metrics.jsonl and TensorBoard are always written)"
        )
