"""Reading ahead: how many batches and ranges at the same time, and which shards are wanted."""

from __future__ import annotations

import os
import threading

import pytest
import torch

from pipeline.load.ahead.batches import MOST_BATCHES, BatchesAhead
from pipeline.load.dali_loader import DaliLoader
from pipeline.shards.shard_files import LocalShards


def settled(*, waited: float, between: float, clips: int = 32, least: int = 2) -> BatchesAhead:
    """After many batches for which reads waited, and between which the consumer worked, for so many seconds."""
    ahead = BatchesAhead(least=least, clips=clips, is_remote=False)
    for _ in range(100):
        ahead.note_read(waited)
        ahead.note_use(between)
    return ahead


def test_reads_that_do_not_wait_get_what_the_settings_ask_for() -> None:
    for between in (0.0, 0.3):
        ahead = settled(waited=0.001, between=between)
        assert not ahead.waits
        assert ahead.count == 2


def test_batches_in_flight_are_latency_times_rate() -> None:
    assert settled(waited=0.4, between=0.1).count == 5
    assert settled(waited=0.05, between=0.3).count == 2
    assert settled(waited=10.0, between=0.01).count == MOST_BATCHES


def test_large_batches_are_limited_by_their_memory() -> None:
    assert settled(waited=10.0, between=0.01, clips=512).count == 4
    assert settled(waited=10.0, between=0.01, clips=4096).count == 2


def test_before_any_measurement_a_server_is_taken_for_slow() -> None:
    assert BatchesAhead(least=1, clips=32, is_remote=True).waits
    assert not BatchesAhead(least=1, clips=32, is_remote=False).waits


@pytest.mark.parametrize("kernel_tells", [True, False])
def test_ranges_on_a_slow_disk_are_read_at_the_same_time(corpus, monkeypatch, kernel_tells) -> None:
    """Each read waits until four are under way, as many as a batch has clips."""
    config = corpus.config("dali-vp9")
    expected = list(DaliLoader(config=config).steps(0, 4))
    barrier, preadv = threading.Barrier(4), os.preadv

    def slow(descriptor, buffers, offset, *flags):
        if flags:
            raise BlockingIOError
        barrier.wait(timeout=30)
        return preadv(descriptor, buffers, offset)

    loader = DaliLoader(config=config)
    assert isinstance(loader._reader.files, LocalShards)
    if not kernel_tells:  # as on NFS: only the time of a read does
        loader._reader.files._has_nowait, loader._reader.files._mean_seconds = False, 1.0
    monkeypatch.setattr("os.preadv", slow)
    for found, wanted in zip(loader.steps(0, 4), expected, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(found[:4], wanted[:4], strict=True))
