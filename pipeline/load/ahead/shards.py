"""Copies whole shards from an object store to this machine before the batches that need them.

Note [Which shards are copied]

Plans are made ahead of the reads, so that the shards of the next steps are known, in the order of their first use. As
many of them, from the first on, as data.cache_gb holds are wanted: those that are copied are marked, so that no process
evicts them (the marks end with the thread), and one thread copies the others. Whatever is not copied when it is read is
read in ranges, so that no batch ever waits for a whole shard, and a data set larger than the cache can be trained on.
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol

import numpy as np

from common.stores import StoreError
from common.stores.cache import CachedFile, CacheError, FileCache
from common.stores.errors import StoreFileChanged, StoreFileDamaged
from pipeline.plan.bad_samples import SampleError
from pipeline.plan.batch_plan import BatchPlan
from pipeline.plan.clips import ClipPlan

_log = logging.getLogger(__name__)

CLIPS_AHEAD = 65_536
"""Number of clips that are planned ahead, at about 200 bytes each."""
_PLANS_PER_READ = 4
"""Plans made for each batch that is read, until CLIPS_AHEAD are made: the first batch must not wait for all of them."""
_PAUSE = 2.0
"""Seconds until the next look for shards to copy, if there was none and the next steps need the same shards."""
_LONG_PAUSE = 10.0
"""Seconds until the next attempt after a store did not answer for a while."""


class CopiedShards(Protocol):
    """The shards of one data set, or of several; see `RemoteShards`."""

    @property
    def files(self) -> Sequence[CachedFile]: ...
    @property
    def cache(self) -> FileCache | None: ...
    def close(self, shards: Iterable[int]) -> None: ...


class ShardsAhead:
    """An iterator over plans that makes them ahead, and copies the shards that they need.

    `finish` must be called once per plan, in their order, when its bytes have been read.

    Args:
        plans: what to iterate over.
        files: the shards, with a cache.
        shards_of: returns the numbers of the shards that a plan needs.
        in_thread: called at the start of the thread that copies.
        clips: clips per plan.
    """

    def __init__(
        self,
        plans: Iterator[BatchPlan],
        *,
        files: CopiedShards,
        shards_of: Callable[[ClipPlan], np.ndarray],
        in_thread: Callable[[], None] | None,
        clips: int,
    ) -> None:
        self._plans, self._files, self._shards_of = plans, files, shards_of
        self._most = max(1, CLIPS_AHEAD // clips)
        self._planned: deque[BatchPlan] = deque()
        self._made = self._finished = 0
        self._uses: OrderedDict[int, int] = OrderedDict()  # shard -> the last plan that needs it, in order of first use
        self._ends: deque[list[int]] = deque()  # the shards of each plan that is not finished
        self._lock, self._stop, self._changed = threading.Lock(), threading.Event(), threading.Event()
        self._in_thread, self._warned = in_thread, False
        self._failure: Exception | None = None
        self._damaged: set[int] = set()
        self._copied: set[int] = set()  # as far as this process knows, and protected from eviction
        self._thread = threading.Thread(target=self._run, name="shard-copier", daemon=True)

    def __iter__(self) -> Iterator[BatchPlan]:
        return self

    def __next__(self) -> BatchPlan:
        """Returns the next plan.

        Raises:
            SampleError: a shard has changed in the store.
        """
        if self._thread.ident is None:  # not before the first use: an iterator may never be used
            self._thread.start()
        if self._failure is not None:
            raise SampleError(str(self._failure)) from None
        for _ in range(_PLANS_PER_READ):
            if len(self._planned) < self._most and (plan := next(self._plans, None)) is not None:
                self._add(plan)
        if not self._planned:
            raise StopIteration
        return self._planned.popleft()

    def _add(self, plan: BatchPlan) -> None:
        shards = self._shards_of(plan.plan).tolist()
        with self._lock:
            self._planned.append(plan)
            self._ends.append(shards)
            known = len(self._uses)
            self._uses.update(dict.fromkeys(shards, self._made))
            self._made += 1
            if len(self._uses) > known:
                self._changed.set()

    def finish(self) -> None:
        """Says that the bytes of the next plan have been read."""
        with self._lock:
            for shard in self._ends.popleft():
                if self._uses.get(shard) == self._finished:
                    del self._uses[shard]
                    self._changed.set()
            self._finished += 1

    def close(self) -> None:
        """Stops copying; copies stay."""
        self._stop.set()
        self._changed.set()

    def _run(self) -> None:
        if self._in_thread is not None:
            self._in_thread()
        shared = self._files.cache
        assert shared is not None
        try:
            # An opening of its own, because other iterators of this loader mark other shards.
            cache = FileCache(shared.folder, limit=shared.limit)
            while not self._stop.is_set():
                self._changed.clear()
                wanted = self._wanted(cache.limit)
                self._files.close(self._copied.difference(wanted))
                self._copied.intersection_update(wanted)
                cache.mark(self._files.files[shard] for shard in wanted)
                if not self._copy_one(cache, wanted):
                    self._changed.wait(_PAUSE)
        except CacheError as error:
            _log.warning("%s; shards that are not there yet are read from the store in ranges", error)
        except StoreFileChanged as error:
            self._failure = error
        except Exception as error:  # of this module: reads in ranges go on without it
            _log.warning("copying shards has stopped (%s: %s); they are read in ranges", type(error).__name__, error)

    def _wanted(self, limit: int) -> list[int]:
        """The shards that are needed next, as many as the cache holds."""
        with self._lock:
            needed, at_once = list(self._uses), len(self._ends[0]) if self._ends else 0
        wanted: list[int] = []
        total = 0
        for shard in needed:
            total += self._files.files[shard].size
            if total > limit:
                self._warn_if_too_small(needed, len(wanted), at_once, limit)
                break
            wanted.append(shard)
        return wanted

    def _warn_if_too_small(self, needed: list[int], fit: int, at_once: int, limit: int) -> None:
        """Says once that even the next batch needs more shards than the cache holds."""
        if self._warned or fit >= at_once:
            return
        self._warned = True
        total = sum(self._files.files[shard].size for shard in needed)
        _log.warning(
            "the next %d steps need %d shards of %.3g GB, and data.cache_gb=%.3g holds %d of them: the others are read "
            "in ranges at every use; raise data.cache_gb, or use data.order=shards with a smaller data.window",
            *(len(self._ends), len(needed), total / 1e9, limit / 1e9, fit),
        )

    def _copy_one(self, cache: FileCache, wanted: list[int]) -> bool:
        """Copies the first of the wanted shards that can be copied now; False if there is none."""
        for shard in wanted:
            file = self._files.files[shard]
            if shard in self._damaged or shard in self._copied:
                continue
            if cache.holds(file):
                self._copied.add(shard)
                continue
            try:
                if cache.fetch(file, stopping=self._stop.is_set):
                    self._copied.add(shard)
                    return True
            except StoreFileChanged:
                raise
            except StoreFileDamaged as error:  # the checksums in it tell which of its samples can be used
                self._damaged.add(shard)
                _log.warning("%s; it is read in ranges", error)
            except StoreError as error:  # whoever needs it now finds out whether this lasts
                _log.warning("%s; trying again", error)
                self._stop.wait(_LONG_PAUSE)
        return False
