"""Keeps one DALI graph busy for any number of iterators."""

from __future__ import annotations

import itertools
import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from nvidia.dali import Pipeline
from nvidia.dali.backend import TensorCPU
from nvidia.dali.plugin.pytorch import feed_ndarray, to_torch_type

Inputs = Mapping[str, Sequence[Any] | np.ndarray]
"""Name of an external source -> a batch for it: an array with the batch in front, or a list of arrays."""

OUT_OF_MEMORY = ("Can't allocate", "CUDA allocation failed", "out of memory", "cudaErrorMemoryAllocation")
"""Substrings of DALI's out-of-memory messages."""


class DecodeError(RuntimeError):
    """DALI could not run a batch.

    Args:
        message: DALI's.
        samples: places in the batch of the samples that fail alone.
    """

    def __init__(self, message: str, samples: list[int]) -> None:
        super().__init__(message)
        self.samples = samples


Output = TypeVar("Output")


@dataclass(eq=False)
class GraphRun(Generic[Output]):
    """A batch that was submitted to the graph, and its result once it was collected."""

    inputs: Inputs
    output: Output | RuntimeError | None = None


class GraphRunner(Generic[Output]):
    """Runs a graph asynchronously, `depth` batches at a time, and gives each caller its own results.

    Iterators may take turns or stop midway: results are collected in order and stored in the run they belong to, and
    the run of an iterator that is gone is freed with it. To be used from one thread only.

    Args:
        build: makes the pipeline when the first batch is submitted; without `source` callbacks and with one output.
        depth: the pipeline's prefetch_queue_depth.
        convert: turns DALI's output into the form of the results: `as_tensor` or `as_arrays`.
    """

    def __init__(self, build: Callable[[], Pipeline], *, depth: int, convert: Callable[[Any], Output]) -> None:
        self._build = build
        self._convert = convert
        self._depth = depth
        self._pipe: Pipeline | None = None
        self._pending: deque[GraphRun[Output]] = deque()

    def submit(self, inputs: Inputs) -> GraphRun[Output]:
        """Submits a batch and returns immediately; if `depth` batches are in flight it first waits for the oldest."""
        while len(self._pending) >= self._depth:
            self._collect()
        run = GraphRun[Output](inputs)
        pipe = self._pipe
        if pipe is None:
            self._pipe = pipe = self._build()
            # A pipeline's first schedule_run starts prefetch_queue_depth iterations at once: spend them on single
            # samples, whose results nobody waits for.
            for _ in range(self._depth - 1):
                self._feed(pipe, GraphRun(_only(inputs, slice(0, 1))))
        self._feed(pipe, run)
        pipe.schedule_run()
        return run

    def result(self, run: GraphRun[Output]) -> Output:
        """Waits for a batch; its tensors belong to the caller.

        Raises:
            DecodeError: DALI could not decode it. Only this batch is lost.
            RuntimeError: DALI had no memory for it, though it had for each of its samples.
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
        assert self._pipe is not None  # it was built for the first batch that became pending
        try:
            stream = None if self._pipe.device_id is None else torch.cuda.current_stream(self._pipe.device_id)
            (output,) = self._pipe.outputs(cuda_stream=stream)
            run.output = self._convert(output)
            run.inputs = {}
        except RuntimeError as error:
            # DALI says that the pipeline is no longer valid, but only the batch that fails to decode is lost.
            run.output = error

    def _culprits(self, inputs: Inputs) -> list[int]:
        """The samples of a failed batch that fail alone, found by halving it."""
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
    return {name: batch[samples] for name, batch in inputs.items()}


# No copies on a CPU: the dynamic executor, DALI's default since 2.0, never writes again to an output that is still
# referenced.


def as_tensor(output: Any) -> torch.Tensor:
    """A batch whose samples have the same shape; on a GPU for use in the current stream."""
    tensor: Any = output.as_tensor()  # its stubs lack most of it
    if isinstance(tensor, TensorCPU):
        return torch.from_dlpack(tensor)
    # DALI reuses memory in the order of its own stream. It would write the next batch into that of a tensor which the
    # caller has freed while kernels that read it still wait in torch's stream. A copy makes each stream wait for the
    # other, takes a fraction of a millisecond, and its memory is torch's.
    stream = torch.cuda.current_stream(tensor.device_id())
    own = torch.empty(tensor.shape(), dtype=to_torch_type[tensor.dtype], device=stream.device)
    return feed_ndarray(tensor, own, cuda_stream=stream)


def as_arrays(output: Any, *, samples: int) -> list[np.ndarray]:
    """One array [samples, ...] for each group of `samples` samples, which have the same shape, of a batch on the CPU.

    Raises:
        RuntimeError: the samples do not lie one after the other (those of image decoders do).
    """
    shapes = output.shape()[::samples]
    sizes = [samples * math.prod(shape) for shape in shapes]
    # One array for all takes an eighth of the time of as many arrays, and views of it need no lock of the interpreter.
    joined = np.asarray(output.as_reshaped_tensor([sum(sizes)]))
    ends = itertools.accumulate(sizes)
    return [
        joined[end - size : end].reshape(samples, *shape) for size, end, shape in zip(sizes, ends, shapes, strict=True)
    ]
