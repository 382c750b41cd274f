"""Runs a DALI graph asynchronously on behalf of any number of iterators."""

from __future__ import annotations

import itertools
import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from nvidia.dali import Pipeline
from nvidia.dali.backend import TensorCPU
from nvidia.dali.plugin.pytorch import feed_ndarray, to_torch_type

from pipeline.shards.codecs import Inputs

OUT_OF_MEMORY = ("Can't allocate", "CUDA allocation failed", "out of memory", "cudaErrorMemoryAllocation")
"""Substrings of DALI's out-of-memory messages."""


class DecodeError(RuntimeError):
    """DALI could not run a batch.

    Args:
        message: DALI's message.
        samples: indices in the batch of the DALI samples that also fail when run alone.
    """

    def __init__(self, message: str, samples: list[int]) -> None:
        super().__init__(message)
        self.samples = samples


Output = TypeVar("Output")


@dataclass(eq=False)
class GraphRun(Generic[Output]):
    """A batch that was submitted to the graph, and its result after that was collected."""

    inputs: Inputs
    """What was fed; emptied after success, and kept after a failure to find the samples that caused it."""
    output: Output | RuntimeError | None = None
    """The result, or DALI's error; None before it is collected."""


class GraphRunner(Generic[Output]):
    """Runs a graph asynchronously, `depth` batches at a time, and gives each caller its own results.

    Iterators may take turns or stop midway: results are collected in order and stored in the `GraphRun` they belong to,
    which is freed together with the iterator that holds it. Not thread-safe.

    Args:
        build: creates the pipeline when the first batch is submitted; it has one output and no `source` callbacks.
        depth: the pipeline's prefetch_queue_depth.
        convert: converts DALI's output to the type of the results, e.g. `as_tensor` or `as_arrays`.
    """

    def __init__(self, build: Callable[[], Pipeline], *, depth: int, convert: Callable[[Any], Output]) -> None:
        self._build = build
        self._convert = convert
        self._depth = depth
        self._pipe: Pipeline | None = None
        self._pending: deque[GraphRun[Output]] = deque()

    def submit(self, inputs: Inputs) -> GraphRun[Output]:
        """Submits a batch and returns its run; if `depth` batches are in flight, first waits for the oldest."""
        while len(self._pending) >= self._depth:
            self._collect()
        run = GraphRun[Output](inputs)
        pipe = self._pipe
        if pipe is None:
            self._pipe = pipe = self._build()
            # A pipeline's first schedule_run starts prefetch_queue_depth iterations at once: feed the extra ones a
            # single sample each; their results are discarded.
            for _ in range(self._depth - 1):
                self._feed(pipe, GraphRun(_only(inputs, slice(0, 1))))
        self._feed(pipe, run)
        pipe.schedule_run()
        return run

    def result(self, run: GraphRun[Output]) -> Output:
        """Waits for the result of a batch, which belongs to the caller.

        Raises:
            DecodeError: DALI could not decode the batch. Other batches are not affected.
            RuntimeError: DALI ran out of memory on the batch, although each of its samples fits alone.
        """
        while run.output is None:
            self._collect()
        if isinstance(run.output, RuntimeError):
            culprits = self._culprits(run.inputs)
            if not culprits and any(phrase in str(run.output) for phrase in OUT_OF_MEMORY):
                raise run.output
            raise DecodeError(str(run.output), culprits)
        return run.output

    def _feed(self, pipe: Pipeline, run: GraphRun[Output]) -> None:
        for name, batch in run.inputs.items():
            pipe.feed_input(name, batch)
        self._pending.append(run)

    def _collect(self) -> None:
        run = self._pending.popleft()
        assert self._pipe is not None  # `submit` built it before the first batch became pending
        try:
            stream = None if self._pipe.device_id is None else torch.cuda.current_stream(self._pipe.device_id)
            (output,) = self._pipe.outputs(cuda_stream=stream)
            run.output = self._convert(output)
            run.inputs = {}
        except RuntimeError as error:
            # DALI's message calls the pipeline invalid, but only this batch is lost: later batches still run.
            run.output = error

    def _culprits(self, inputs: Inputs) -> list[int]:
        """Finds the samples of a failed batch that also fail alone, by repeated halving."""
        count = len(next(iter(inputs.values())))
        if count == 1:
            return [0]
        middle = count // 2
        culprits = []
        for half in (slice(0, middle), slice(middle, count)):
            run = self.submit(_only(inputs, half))
            while run.output is None:
                self._collect()
            if isinstance(run.output, RuntimeError):
                culprits += [half.start + sample for sample in self._culprits(run.inputs)]
        return culprits


def _only(inputs: Inputs, samples: slice) -> Inputs:
    """The inputs of a part of the batch."""
    return {name: batch[samples] for name, batch in inputs.items()}


# On a CPU neither of these functions copies: the dynamic executor, DALI's default since 2.0, does not reuse the memory
# of an output that is still referenced.


def as_tensor(output: Any) -> torch.Tensor:
    """Converts a batch whose samples all have the same shape; on a GPU, for use in torch's current stream."""
    tensor: Any = output.as_tensor()  # Any: DALI's type stubs lack most methods
    if isinstance(tensor, TensorCPU):
        return torch.from_dlpack(tensor)
    # DALI reuses memory in the order of its own stream. Without a copy it could overwrite a tensor that the caller has
    # freed but that queued kernels in torch's stream still read. The copy lies in torch's memory, makes each stream
    # wait for the other, and takes a fraction of a millisecond.
    stream = torch.cuda.current_stream(tensor.device_id())
    copy = torch.empty(tensor.shape(), dtype=to_torch_type[tensor.dtype], device=stream.device)
    return feed_ndarray(tensor, copy, cuda_stream=stream)


def as_arrays(output: Any, *, samples: int) -> list[np.ndarray]:
    """Converts a batch on the CPU to one array [samples, ...] per group of `samples` samples of the same shape.

    Raises:
        RuntimeError: the samples are not contiguous in memory (those of image decoders are).
    """
    shapes = output.shape()[::samples]
    sizes = [samples * math.prod(shape) for shape in shapes]
    # One conversion for the batch takes an eighth of the time of one per group; slicing it keeps the GIL.
    joined = np.asarray(output.as_reshaped_tensor([sum(sizes)]))
    ends = itertools.accumulate(sizes)
    return [
        joined[end - size : end].reshape(samples, *shape) for size, end, shape in zip(sizes, ends, shapes, strict=True)
    ]
