"""Shards are copied before the steps that need them, and are not evicted before those are over."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from common.stores import location
from common.stores.cache import FileCache
from pipeline.load.ahead.shards import ShardsAhead
from pipeline.plan.bad_samples import SampleError
from pipeline.shards.shard_files import RemoteShards

SIZE, SHARDS = 1000, 6
STEPS = [number // 2 for number in range(2 * SHARDS)]
"""The shard that each step needs: two steps per shard."""


@pytest.fixture
def files(tmp_path: Path) -> Callable[[float], RemoteShards]:
    """Six shards in a store, as one rank sees them; the cache has room for so many of them."""
    root = location(f"memory://{tmp_path.name}")
    names = [f"{number}.tar" for number in range(SHARDS)]
    for name in names:
        (root / name).write_bytes(bytes(SIZE))
    manifest = SimpleNamespace(
        shards=names, shard_bytes=np.full(SHARDS, SIZE), shard_etag=[""] * SHARDS, shard_sha256=[""] * SHARDS
    )
    return lambda room: RemoteShards(manifest, root, FileCache(tmp_path / "cache", limit=int(room * SIZE)))


def ahead_of(files: RemoteShards, steps: list) -> ShardsAhead:
    plans = iter([SimpleNamespace(plan=np.unique(shards)) for shards in steps])
    return ShardsAhead(plans, files=files, shards_of=lambda plan: plan, in_thread=None, clips=1)


def wait_until(condition: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.002)


def held(files: RemoteShards, *shards: int) -> bool:
    assert files.cache is not None
    return all(files.cache.holds(files.files[shard]) for shard in shards)


@pytest.mark.parametrize("ranks", [1, 2])
def test_the_next_shards_are_there_and_the_limit_holds(files, ranks) -> None:
    shards = [files(2.5) for _ in range(ranks)]
    iterators = [ahead_of(one, STEPS) for one in shards]
    for step, shard in enumerate(STEPS):
        for iterator in iterators:
            next(iterator)
        following = min(shard + 1, SHARDS - 1)
        wait_until(lambda now=(shard, following): held(shards[0], *now), f"step {step} lacks its shards")
        assert shards[0].cache.used() <= shards[0].cache.limit
        for iterator in iterators:
            assert held(shards[0], shard)  # the other rank has not evicted it
            iterator.finish()
    for iterator in iterators:
        assert next(iterator, None) is None
        iterator.close()


def test_a_shard_that_is_needed_again_is_kept(files) -> None:
    """Shard 0 is needed by every step, as with data.order=global; the others take turns in the room that is left."""
    shards = files(2.5)
    iterator = ahead_of(shards, [[0, shard] for shard in range(1, SHARDS)])
    copied = None
    for shard in range(1, SHARDS):
        next(iterator)
        wait_until(lambda now=shard: held(shards, 0, now), f"shard {shard} is not copied")
        inode = shards.cache.path(shards.files[0]).stat().st_ino
        assert copied in (None, inode)
        copied = inode
        iterator.finish()
    iterator.close()


def test_a_step_that_needs_more_than_there_is_room_for_is_said_once(files, caplog) -> None:
    shards = files(1.5)
    with caplog.at_level(logging.WARNING):
        iterator = ahead_of(shards, [range(SHARDS)] * 3)
        for _ in range(3):
            next(iterator)
            wait_until(lambda: held(shards, 0), "the first shard is not copied")
            wait_until(lambda: "data.cache_gb" in caplog.text, "nothing is said")
            iterator.finish()
        iterator.close()
    assert caplog.text.count("data.cache_gb=1.5e-06 holds only 1 of them") == 1


def test_a_shard_that_changes_ends_the_iteration(files, tmp_path) -> None:
    shards = files(SHARDS)
    (location(f"memory://{tmp_path.name}") / "3.tar").write_bytes(bytes(SIZE - 1))
    iterator = ahead_of(shards, STEPS)
    for _ in range(3):
        next(iterator)
    iterator._thread.join(timeout=20)
    assert held(shards, 0, 1, 2)
    with pytest.raises(SampleError, match=r"3.tar has changed since this command began \(999 bytes instead of 1,000\)"):
        next(iterator)


def test_a_damaged_shard_is_not_copied_and_the_others_are(files, caplog) -> None:
    shards = files(SHARDS)
    shards.files[1] = shards.files[1].__class__(shards.files[1].path, SIZE, "", "0" * 64)
    iterator = ahead_of(shards, STEPS)
    for _ in STEPS[:4]:
        next(iterator)
    wait_until(lambda: held(shards, *(shard for shard in range(SHARDS) if shard != 1)), "the others are not copied")
    assert not held(shards, 1)
    assert caplog.text.count("another SHA-256") == 1
    iterator.close()
