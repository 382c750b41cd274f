"""What comes out of a DALI graph stays as it is."""

from __future__ import annotations

import gc

import numpy as np
from nvidia.dali import Pipeline, fn
from nvidia.dali.types import DALIDataType

from pipeline.graph_runner import GraphRunner, many_arrays


def graph() -> Pipeline:
    pipe = Pipeline(batch_size=16, num_threads=1, device_id=None, prefetch_queue_depth=2)
    with pipe:
        pipe.set_outputs(fn.crop(fn.external_source(name="pictures", dtype=DALIDataType.UINT8, ndim=3), crop=(30, 30)))
    return pipe


def test_arrays_outlive_later_batches_and_the_graph() -> None:
    runner = GraphRunner(graph, depth=2, own=many_arrays)
    rng = np.random.default_rng(0)
    kept, copies = [], []
    for _ in range(20):
        pictures = [rng.integers(0, 255, (40 + k, 50, 3), dtype=np.uint8) for k in range(16)]
        kept.append(runner.result(runner.submit({"pictures": pictures})))
        copies.append([array.copy() for array in kept[-1]])
    del runner
    gc.collect()
    for arrays, expected in zip(kept, copies, strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(arrays, expected, strict=True))
