"""Batches from object stores equal those from the disk bit for bit, whatever the server does; the cache is bounded."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.tools.slow_server import slow_server
from common.stores import location
from common.stores.cache import FileCache
from pipeline.batch import Batch
from pipeline.load.dali_loader import DaliLoader
from pipeline.plan.bad_samples import SampleError
from pipeline.shards.manifest import Manifest
from pipeline.shards.meta import ManifestError

STEPS = 5
"""Two epochs and a half."""


@pytest.fixture
def stored(store, corpus) -> str:
    """URL of the VP9 shards: three of them, with ten samples."""
    url = store.make_bucket() + "/shards"
    store.put_folder(corpus.vp9, url)
    return url


@pytest.fixture
def loader_of(corpus, tmp_path) -> Callable[..., DaliLoader]:
    def make(url: str = "", **data: Any) -> DaliLoader:
        config = corpus.config("dali-vp9")
        data = {"cache_dir": str(tmp_path / "cache"), "prefetch": 1} | data
        return DaliLoader(config=replace(config, data=replace(config.data, path=url or config.data.path, **data)))

    return make


@pytest.fixture
def expected(loader_of) -> list[Batch]:
    return list(loader_of().steps(0, STEPS))


def assert_same(found: list[Batch], expected: list[Batch]) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one[:4], other[:4], strict=True))


def copies(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "cache/shards").glob("*.tar"))


def wait_for_copies(tmp_path: Path, count: int) -> None:
    end = time.monotonic() + 20
    while len(copies(tmp_path)) < count:
        assert time.monotonic() < end, "the shards are not copied"
        time.sleep(0.01)


@pytest.mark.parametrize("cache_gb", [0.0, 1.0])
@pytest.mark.parametrize("order", ["global", "shards"])
def test_batches_are_those_from_the_disk(stored, loader_of, cache_gb, order) -> None:
    expected = list(loader_of(order=order, window=2).steps(0, STEPS))
    assert_same(list(loader_of(stored, cache_gb=cache_gb, order=order, window=2).steps(0, STEPS)), expected)


def test_once_copied_shards_are_not_read_from_the_store_again(stored, store, loader_of, expected, tmp_path) -> None:
    batches = loader_of(stored).steps(0, STEPS)
    found = [next(batches)]
    wait_for_copies(tmp_path, 3)
    assert_same(found + list(batches), expected)
    store.requests.clear()
    assert_same(list(loader_of(stored).steps(0, STEPS)), expected)
    assert not [request for request in store.requests if ".tar" in request.path]
    assert not [request for request in store.requests if ".npy" in request.path]


def test_batches_survive_errors_stalls_and_a_restart(stored, store, loader_of, expected, monkeypatch) -> None:
    monkeypatch.setattr("common.stores.native.READ_SECONDS", 1)
    for settings in ({"cache_gb": 0.0}, {"cache_gb": 1.0}):
        loader = loader_of(stored, **settings)
        store.faults.latency, store.faults.errors = 0.01, 0.05
        store.faults.stalls, store.faults.stall_seconds = 0.01, 60.0
        batches = loader.steps(0, STEPS)
        found = [next(batches)]
        store.restart(down_seconds=0.2)
        assert_same(found + list(batches), expected)
        store.faults.errors = store.faults.stalls = 0.0


def test_the_cache_stays_below_its_limit_and_keeps_what_is_needed_next(
    stored, loader_of, tmp_path, monkeypatch, corpus
) -> None:
    """One shard fits; with data.order=shards it is the one that is needed now or next."""
    sizes = [path.stat().st_size for path in corpus.vp9.glob("shard-*.tar")]
    used = []
    fetch = FileCache.fetch

    def noting(self: FileCache, *args: Any, **kwargs: Any) -> bool:
        done = fetch(self, *args, **kwargs)
        used.append(self.used())
        return done

    monkeypatch.setattr(FileCache, "fetch", noting)
    limit = max(sizes) * 1.1
    expected = list(loader_of(order="shards", window=1).steps(0, STEPS))
    batches = loader_of(stored, order="shards", window=1, cache_gb=limit / 1e9).steps(0, STEPS)
    found = [next(batches)]
    wait_for_copies(tmp_path, 1)
    assert_same(found + list(batches), expected)
    assert used
    assert max(used) <= limit


def test_a_cache_that_is_too_small_is_said_and_ranges_are_read(stored, loader_of, expected, caplog, corpus) -> None:
    size = min(path.stat().st_size for path in corpus.vp9.glob("shard-*.tar"))
    with caplog.at_level(logging.WARNING):
        batches = loader_of(stored, cache_gb=size / 2e9).steps(0, STEPS)
        found = list(batches)
    assert_same(found, expected)
    end = time.monotonic() + 10
    while "raise data.cache_gb" not in caplog.text and time.monotonic() < end:
        time.sleep(0.01)
    assert "raise data.cache_gb, or use data.order=shards with a smaller data.window" in caplog.text


def test_a_cache_folder_that_cannot_be_written_is_said_and_ranges_are_read(
    stored, loader_of, expected, caplog, tmp_path
) -> None:
    Manifest.open(stored, cache_dir=str(tmp_path / "cache"))
    (tmp_path / "cache/shards").write_text("a file where the folder should be")
    assert_same(list(loader_of(stored).steps(0, STEPS)), expected)
    assert "cannot be used" in caplog.text


def test_a_damaged_copy_is_made_again(stored, loader_of, expected, caplog, tmp_path) -> None:
    batches = loader_of(stored).steps(0, STEPS)
    next(batches)
    wait_for_copies(tmp_path, 3)
    batches.close()
    for path in copies(tmp_path):
        path.write_bytes(bytes(path.stat().st_size))
    loader = loader_of(stored)
    assert_same(list(loader.steps(0, STEPS)), expected)
    assert len(loader.bad_samples) == 0
    assert "is damaged; it is made again" in caplog.text


@pytest.mark.parametrize("cache_gb", [0.0, 1.0])
def test_a_shard_that_changes_during_training_ends_the_run(stored, store, loader_of, cache_gb, corpus) -> None:
    """Of the same length: only its etag tells."""
    loader = loader_of(stored, cache_gb=cache_gb)
    for path in corpus.vp9.glob("shard-*.tar"):
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        store.put(f"{stored}/{path.name}", bytes(content))
    with pytest.raises(SampleError, match=r"shard-\d+.tar has changed since this command began"):
        list(loader.steps(0, STEPS))


def test_a_shard_that_changed_before_the_start_is_copied_again(stored, store, loader_of, expected, tmp_path) -> None:
    assert_same(list(loader_of(stored).steps(0, STEPS)), expected)
    wait_for_copies(tmp_path, 1)
    before = copies(tmp_path)[0]
    name = before.name.partition(".")[2]
    store.put(f"{stored}/{name}", (location(stored) / name).read_bytes()[:-1] + b"\1")
    assert loader_of(stored)._reader.files.cache is not None
    files = loader_of(stored)._reader.files
    shard = next(number for number, file in enumerate(files.files) if file.path.name == name)
    assert files.cache.path(files.files[shard]) != before


def test_what_is_missing_or_different_is_named_at_the_start(stored, store, tmp_path) -> None:
    cache = str(tmp_path / "cache")
    store.put(f"{stored}/shard-000001.tar", b"short")
    with pytest.raises(ManifestError, match=rf"{stored}/shard-000001.tar has 5 bytes, the manifest expects"):
        Manifest.open(stored, cache_dir=cache)
    (location(stored) / "shard-000001.tar").unlink()
    with pytest.raises(ManifestError, match=rf"{stored}/shard-000001.tar is missing"):
        Manifest.open(stored, cache_dir=cache)
    with pytest.raises(ManifestError, match="s3://no-bucket-here holds no manifest"):
        Manifest.open("s3://no-bucket-here", cache_dir=cache)
    store.faults.denied = True
    with pytest.raises(ManifestError, match=r"access to .* is denied"):
        Manifest.open(stored, cache_dir=cache)


def test_a_manifest_whose_copy_is_damaged_is_copied_again(stored, corpus, tmp_path) -> None:
    cache = str(tmp_path / "cache")
    Manifest.open(stored, cache_dir=cache)
    for path in (tmp_path / "cache/manifests").rglob("frames.npy"):
        path.write_bytes(path.read_bytes()[:-1] + b"\7")
    found, wanted = Manifest.open(stored, cache_dir=cache), Manifest.open(corpus.vp9)
    assert found.frames.tolist() == wanted.frames.tolist()
    assert found.fingerprint == wanted.fingerprint


def test_other_stores_serve_shards_too(corpus, loader_of, expected, tmp_path) -> None:
    """By fsspec, as hf://."""
    root = location(f"memory://{tmp_path.name}/shards")
    for path in corpus.vp9.rglob("*"):
        if path.is_file():
            (root / path.relative_to(corpus.vp9).as_posix()).upload(path)
    assert_same(list(loader_of(str(root)).steps(0, STEPS)), expected)


def test_a_web_server_whose_files_cannot_be_listed_serves_shards_too(corpus, loader_of, expected) -> None:
    with slow_server(corpus.vp9, latency=0.0) as variables:
        url = variables["AWS_ENDPOINT_URL"] + "/shards"
        assert not location(url).is_listable
        assert_same(list(loader_of(url).steps(0, STEPS)), expected)
