"""Reads the bytes of batches ahead of their use, and returns them in the order of their plans."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future

from pipeline.load.ahead.batches import BatchesAhead
from pipeline.load.ahead.shards import ShardsAhead
from pipeline.load.decoder import InFlight
from pipeline.plan.batch_plan import BatchPlan


class Reads:
    """The batches of one iterator that are being read.

    Args:
        plans: an iterator over their plans, which only the thread of `one` advances.
        read: reads a batch.
        waited: returns for how many seconds the calling thread has waited for disks and servers so far.
        ahead: chooses how many batches to read at the same time.
        one: an executor of a single thread. It makes the plans and, as long as reads need not wait for disks and
            servers, also reads the batches.
        several: an executor of more threads, which read the batches when reads do wait.
    """

    def __init__(
        self,
        plans: Iterator[BatchPlan],
        *,
        read: Callable[[BatchPlan], InFlight],
        waited: Callable[[], float],
        ahead: BatchesAhead,
        one: Executor,
        several: Executor,
    ) -> None:
        self._plans, self._read, self._waited, self._ahead = plans, read, waited, ahead
        self._one, self._several = one, several
        self._reading: deque[Future[InFlight | None]] = deque()
        self._last_taken = time.perf_counter()
        self._ended = False
        self._fill_up()

    def is_ready(self) -> bool:
        """Whether the next batch has been read."""
        return bool(self._reading) and self._reading[0].done()

    def take(self) -> InFlight | None:
        """Waits for the next batch and returns it; None after the last.

        Raises:
            SampleError: it cannot be read.
        """
        if not self._reading:
            return None
        began = time.perf_counter()
        item = self._reading.popleft().result()
        now = time.perf_counter()
        self._ahead.note_use(began - self._last_taken)
        self._last_taken = now
        if item is None:
            self._ended = True
            self._reading.clear()
            return None
        if isinstance(self._plans, ShardsAhead):
            self._plans.finish()
        self._fill_up()
        return item

    def close(self) -> None:
        """Cancels the reads that have not begun."""
        self._ended = True
        for future in self._reading:
            future.cancel()
        if isinstance(self._plans, ShardsAhead):
            self._plans.close()

    def _fill_up(self) -> None:
        while not self._ended and len(self._reading) < self._ahead.count:
            if not self._ahead.waits:
                self._reading.append(self._one.submit(self._plan_and_read))
            else:
                self._reading.append(
                    self._several.submit(self._read_planned, self._one.submit(next, self._plans, None))
                )

    def _plan_and_read(self) -> InFlight | None:
        return self._timed(next(self._plans, None))

    def _read_planned(self, plan: Future[BatchPlan | None]) -> InFlight | None:
        return self._timed(plan.result())

    def _timed(self, plan: BatchPlan | None) -> InFlight | None:
        if plan is None:
            return None
        before = self._waited()
        item = self._read(plan)
        self._ahead.note_read(self._waited() - before)
        return item
