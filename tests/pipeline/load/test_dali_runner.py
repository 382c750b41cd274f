"""Results of a DALI graph are never overwritten, and failures are attributed to the right cause."""

from __future__ import annotations

import gc
from functools import partial

import numpy as np
import pytest
from nvidia.dali import Pipeline, fn
from nvidia.dali.types import DALIDataType

from pipeline.load.dali_runner import DecodeError, GraphRunner, as_arrays


def graph() -> Pipeline:
    pipe = Pipeline(batch_size=16, num_threads=1, device_id=None, prefetch_queue_depth=2)
    with pipe:
        pipe.set_outputs(fn.flip(fn.external_source(name="pictures", dtype=DALIDataType.UINT8, ndim=3)))
    return pipe


def test_arrays_outlive_later_batches_and_the_graph() -> None:
    runner = GraphRunner(graph, depth=2, convert=partial(as_arrays, samples=4))
    rng = np.random.default_rng(0)
    kept, copies = [], []
    for _ in range(20):
        pictures = [rng.integers(0, 255, (40 + k // 4, 50, 3), dtype=np.uint8) for k in range(16)]
        kept.append(runner.result(runner.submit({"pictures": pictures})))
        copies.append([array.copy() for array in kept[-1]])
        for first, array in zip(range(0, 16, 4), copies[-1], strict=True):
            assert np.array_equal(array, [picture[:, ::-1] for picture in pictures[first : first + 4]])
    del runner
    gc.collect()
    for group, expected in zip(kept, copies, strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(group, expected, strict=True))


class SmallDevice:
    """A fake pipeline that has memory for `room` samples at a time and cannot decode the number 7."""

    device_id = None

    def __init__(self, room: int) -> None:
        self.room = room
        self.fed: list[list[int]] = []

    def feed_input(self, name: str, batch: list[int]) -> None:
        self.fed.append(batch)

    def schedule_run(self) -> None:
        pass

    def outputs(self, cuda_stream: object) -> tuple[list[int]]:
        batch = self.fed.pop(0)
        if 7 in batch:
            raise RuntimeError("Critical error in pipeline:\nno picture")
        if len(batch) > self.room:
            raise RuntimeError("Critical error in pipeline:\nCan't allocate 202375168 bytes on device 0.")
        return (batch,)


def test_lack_of_memory_is_not_attributed_to_a_sample() -> None:
    runner = GraphRunner(lambda: SmallDevice(room=3), depth=2, convert=list)
    with pytest.raises(RuntimeError, match="Can't allocate") as caught:
        runner.result(runner.submit({"numbers": [1, 2, 3, 4]}))
    assert not isinstance(caught.value, DecodeError)
    assert runner.result(runner.submit({"numbers": [1, 2]})) == [1, 2]


def test_samples_that_fail_alone_are_found() -> None:
    runner = GraphRunner(lambda: SmallDevice(room=8), depth=2, convert=list)
    with pytest.raises(DecodeError) as caught:
        runner.result(runner.submit({"numbers": [1, 2, 7, 4, 7]}))
    assert caught.value.samples == [2, 4]
