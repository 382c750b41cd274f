"""Mixes of data sets in folders and in object stores give the batches of a mix of folders, bit for bit."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.batch import Batch
from pipeline.load.dali_loader import DaliLoader
from pipeline.plan.bad_samples import SampleError
from settings import Config, from_dict

STEPS = 6


@pytest.fixture
def loader_of(tmp_path: Path) -> Callable[..., DaliLoader]:
    """Makes the loader of a mix of these folders or URLs."""

    def make(*places: object, **data: Any) -> DaliLoader:
        mix = {f"set{number}": {"path": str(place), "weight": 1.0 + number} for number, place in enumerate(places)}
        common = {"threads": 1, "idle_priority": False, "prefetch": 1, "cache_dir": str(tmp_path / "cache")}
        tree = {"clip": {"frames": 8, "size": 48}, "train": {"batch_size": 8}, "data": {"mix": mix, **common, **data}}
        return DaliLoader(config=from_dict(Config, tree))

    return make


@pytest.fixture
def stored(store, corpus, demo_shards) -> tuple[str, str]:
    """URLs of the corpus as VP9, in three shards, and of the demo's JPEG shards, of which there are four."""
    bucket = store.make_bucket()
    store.put_folder(corpus.vp9, f"{bucket}/vp9")
    store.put_folder(demo_shards, f"{bucket}/demo")
    return f"{bucket}/vp9", f"{bucket}/demo"


def assert_same(found: list[Batch], expected: list[Batch]) -> None:
    for one, other in zip(found, expected, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one[:4], other[:4], strict=True))


def copies(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "cache/shards").glob("*.tar"))


@pytest.mark.parametrize("order", ["global", "shards"])
def test_one_local_and_one_stored_data_set_give_the_batches_of_two_local_ones(
    store, stored, loader_of, corpus, demo_shards, order
) -> None:
    settings = {"order": order, "window": 4}
    expected = list(loader_of(corpus.vp9, demo_shards, **settings).steps(0, STEPS))
    store.faults.errors = 0.05
    for places in ((corpus.vp9, stored[1]), (stored[0], demo_shards)):
        assert_same(list(loader_of(*places, cache_gb=0.0, **settings).steps(0, STEPS)), expected)
        assert_same(list(loader_of(*places, **settings).steps(0, STEPS)), expected)


def test_the_shards_of_all_stored_data_sets_are_copied_ahead(
    store, stored, loader_of, corpus, demo_shards, tmp_path
) -> None:
    expected = list(loader_of(corpus.vp9, demo_shards).steps(0, STEPS))
    batches = loader_of(*stored).steps(0, STEPS)
    found = [next(batches)]
    end = time.monotonic() + 20
    while len(copies(tmp_path)) < 7:
        assert time.monotonic() < end, "the shards are not copied"
        time.sleep(0.01)
    assert_same(found + list(batches), expected)
    store.requests.clear()
    assert_same(list(loader_of(*stored).steps(0, STEPS)), expected)
    assert not [request for request in store.requests if ".tar" in request.path]
    # A copy that is damaged afterwards is made again, in whichever data set it is.
    for path in copies(tmp_path):
        path.chmod(0o644)
        path.write_bytes(bytes(path.stat().st_size))
    assert_same(list(loader_of(*stored).steps(0, STEPS)), expected)


def test_a_stored_shard_that_changes_ends_the_run(store, stored, loader_of, corpus) -> None:
    loader = loader_of(corpus.vp9, stored[1], cache_gb=0.0)
    for name, content in store.objects(stored[1]).items():
        if name.endswith(".tar"):
            store.put(f"{stored[1]}/{name}", content[:-1] + b"x")
    with pytest.raises(SampleError, match=r"demo/.*\.tar has changed since this command began"):
        list(loader.steps(0, STEPS))
    for threads in (loader._reading, loader._more_reading, *(reader._threads for reader in loader._reader._readers)):
        threads.shutdown()  # requests under way must not outlive the server
