"""What the shard reader asks of the kernel."""

from __future__ import annotations

import errno
import os

import numpy as np
import pytest

from pipeline.clips import ClipPlan
from pipeline.loader import make_loader
from pipeline.shard_reader import ShardReader


def reader_and_plan(corpus) -> tuple[ShardReader, ClipPlan]:
    loader = make_loader(corpus.config("dali-jpeg"))
    return loader._reader, loader.planner.train(np.arange(6), epoch=0, purpose="train")


@pytest.mark.parametrize(
    "kernel", ["lacks the range", "holds half of it", "cannot tell", "cannot be asked by this Python"]
)
def test_what_is_not_in_memory_is_asked_for_before_it_is_waited_for(
    corpus, kernel: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not hasattr(os, "RWF_NOWAIT") and kernel != "cannot be asked by this Python":
        pytest.skip("this Python lacks RWF_NOWAIT")
    reader, plan = reader_and_plan(corpus)
    expected = reader.jpeg(plan), reader.pcm(plan)
    calls, preadv, fadvise = [], os.preadv, os.posix_fadvise

    def reading(descriptor, buffers, offset, flags=0):
        if not flags:
            calls.append(("waited for", offset))
            return preadv(descriptor, buffers, offset)
        assert flags == os.RWF_NOWAIT
        if kernel == "holds half of it":
            return preadv(descriptor, [buffer[: len(buffer) // 2] for buffer in buffers], offset)
        raise OSError(errno.EAGAIN if kernel == "lacks the range" else errno.EOPNOTSUPP, "")

    def asking(descriptor, offset, size, advice):
        calls.append(("asked for", offset))
        fadvise(descriptor, offset, size, advice)

    if kernel == "cannot be asked by this Python":
        monkeypatch.setattr("pipeline.shard_reader._AT_ONCE", 0)
    monkeypatch.setattr("os.preadv", reading)
    monkeypatch.setattr("os.posix_fadvise", asking)
    images = reader.jpeg(plan)
    assert [what for what, _ in calls] == ["asked for"] * 6 + ["waited for"] * 6
    assert [offset for _, offset in calls[:6]] == [offset for _, offset in calls[6:]]
    assert np.array_equal(images, expected[0])
    assert np.array_equal(reader.pcm(plan), expected[1])


@pytest.mark.skipif(not hasattr(os, "RWF_NOWAIT"), reason="this Python lacks RWF_NOWAIT")
def test_what_is_in_memory_takes_one_call(corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    reader, plan = reader_and_plan(corpus)
    expected = reader.pcm(plan)
    flags_seen, preadv = [], os.preadv

    def in_memory(descriptor, buffers, offset, flags=0):
        flags_seen.append(flags)
        return preadv(descriptor, buffers, offset)

    monkeypatch.setattr("os.preadv", in_memory)
    assert np.array_equal(reader.pcm(plan), expected)
    assert flags_seen == [os.RWF_NOWAIT] * 6
