"""Copies whole shards from an object store to this machine before the batches that need them.

Note [Which shards are copied]

Plans are made ahead of the reads, so that the shards of the next steps are known, in the order of their first use.
Wanted are the first of them, up to a total size of data.cache_gb. They are marked, so that no process evicts their
copies (the marks end with the thread), and one thread copies those that are not in the cache yet. A shard without a
copy is read in ranges, so that no batch ever waits for a whole shard, and a data set larger than the cache can be
trained on.
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
"""Number of plans made per batch, until CLIPS_AHEAD clips are planned: the first batch must not wait for them all."""
_PAUSE = 2.0
"""Seconds until the next attempt if no shard could be copied; it comes earlier if the needed shards change."""
_LONG_PAUSE = 10.0
"""Seconds until the next attempt after a store could not be read."""


class CopiedShards(Protocol):
    """The shards of one data set, or of several; see `RemoteShards`."""

    @property
    def files(self) -> Sequence[CachedFile]: ...
    @property
    def cache(self) -> FileCache | None: ...
    def close(self, shards: Iterable[int]) -> None: ...


class ShardsAhead:
    """An iterator over plans that makes them ahead, and copies the shards that they need.

    `finish` must be called once per plan, in the order of the plans, when the bytes of the plan have been read.

    Args:
        plans: the plans to return.
        files: the shards, with a cache.
        shards_of: returns the numbers of the shards that a plan needs.
        in_thread: called in the thread that copies, when it starts.
        clips: number of clips per plan.
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
        self._max_planned = max(1, CLIPS_AHEAD // clips)
        self._planned: deque[BatchPlan] = deque()
        self._made = self._finished = 0  # numbers of plans
        # shard -> number of the last plan that needs it, in the order in which plans first needed the shards
        self._last_use: OrderedDict[int, int] = OrderedDict()
        self._unfinished: deque[list[int]] = deque()  # the shards of each plan that is not finished
        self._lock, self._stop, self._changed = threading.Lock(), threading.Event(), threading.Event()
        self._in_thread, self._warned = in_thread, False
        self._failure: Exception | None = None
        self._damaged: set[int] = set()
        self._copied: set[int] = set()  # wanted shards of which this thread has seen a copy
        self._thread = threading.Thread(target=self._run, name="shard-copier", daemon=True)

    def __iter__(self) -> Iterator[BatchPlan]:
        return self

    def __next__(self) -> BatchPlan:
        """Returns the next plan.

        Raises:
            SampleError: a shard has changed in the store.
        """
        if self._thread.ident is None:  # started here, because some iterators are never used
            self._thread.start()
        if self._failure is not None:
            raise SampleError(str(self._failure)) from None
        for _ in range(_PLANS_PER_READ):
            if len(self._planned) < self._max_planned and (plan := next(self._plans, None)) is not None:
                self._add(plan)
        if not self._planned:
            raise StopIteration
        return self._planned.popleft()

    def _add(self, plan: BatchPlan) -> None:
        shards = self._shards_of(plan.plan).tolist()
        with self._lock:
            self._planned.append(plan)
            self._unfinished.append(shards)
            known = len(self._last_use)
            self._last_use.update(dict.fromkeys(shards, self._made))
            self._made += 1
            if len(self._last_use) > known:
                self._changed.set()

    def finish(self) -> None:
        """Notes that the bytes of one more plan have been read."""
        with self._lock:
            for shard in self._unfinished.popleft():
                if self._last_use.get(shard) == self._finished:
                    del self._last_use[shard]
                    self._changed.set()
            self._finished += 1

    def close(self) -> None:
        """Stops copying; the copies stay on the disk."""
        self._stop.set()
        self._changed.set()

    def _run(self) -> None:
        if self._in_thread is not None:
            self._in_thread()
        shared = self._files.cache
        assert shared is not None
        try:
            # A FileCache of its own, because each marks its own files, and other iterators need other shards.
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
            _log.warning("%s; shards that are not copied yet are read from the store in ranges", error)
        except StoreFileChanged as error:
            self._failure = error
        except Exception as error:  # a bug in copying must not end the run, which can read everything in ranges
            _log.warning("copying shards has stopped (%s: %s); they are read in ranges", type(error).__name__, error)

    def _wanted(self, limit: int) -> list[int]:
        """Returns the first of the needed shards, as many as the cache holds."""
        with self._lock:
            needed, at_once = list(self._last_use), len(self._unfinished[0]) if self._unfinished else 0
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
        """Warns, once, if even the next batch alone needs more shards (`at_once`) than the cache holds (`fit`)."""
        if self._warned or fit >= at_once:
            return
        self._warned = True
        total = sum(self._files.files[shard].size for shard in needed)
        _log.warning(
            "the next %d steps need %d shards (%.3g GB), and data.cache_gb=%.3g holds only %d of them: the others are "
            "read in ranges at every use; raise data.cache_gb, or use data.order=shards with a smaller data.window",
            *(len(self._unfinished), len(needed), total / 1e9, limit / 1e9, fit),
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
            except StoreFileDamaged as error:  # its samples have checksums, so intact ones can still be used
                self._damaged.add(shard)
                _log.warning("%s; it is read in ranges", error)
            except StoreError as error:  # if this lasts, the reads in ranges raise an error
                _log.warning("%s; trying again", error)
                self._stop.wait(_LONG_PAUSE)
        return False
