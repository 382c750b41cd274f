"""The interface of the DALI loader's decoders (`GpuDecoder` and `CpuDecoder`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from pipeline.batch import Batch
from pipeline.plan.batch_plan import BatchPlan
from pipeline.shards.codecs import Inputs
from settings import StorageConfig


@dataclass(eq=False, kw_only=True)
class InFlight:
    """A batch that is being loaded: its plan with the bytes read for it, or later with the decoder's handle."""

    plan: BatchPlan
    video: Inputs | None = None
    """DALI inputs from `Codec.read`; None without video, and after the decoder has taken them over."""
    pcm: np.ndarray | None = None
    """[B, samples], audio windows, int16 or float32 of the same scale; None without audio, and after the decoder has
    taken them over."""
    parts: list[tuple[int, np.ndarray, InFlight]] | None = None
    """The batch divided by its data sets, for a mix, which has neither `video` nor `pcm` of its own: number of the data
    set, rows of its clips in the batch, int64 [n], and these clips."""
    handle: Any = None
    """Set and used by the decoder to find the result."""


class StoredFrames(Protocol):
    """What decoders need to know of a data set."""

    storage: StorageConfig
    width: np.ndarray
    """int [n], frame width of each sample, in pixels."""
    height: np.ndarray
    """int [n], frame height of each sample, in pixels."""

    @property
    def shortest_side(self) -> int:
        """Shortest side of all frames, in pixels."""


class Decoder(Protocol):
    """Turns encoded bytes into batches. Several iterators may submit in turn, and may leave results uncollected."""

    depth: int
    """Number of items that an iterator should keep submitted before it waits for the first result."""

    def submit(self, item: InFlight) -> None:
        """Takes over the bytes of an item and starts to decode them; does not wait for the result."""

    def result(self, item: InFlight) -> Batch:
        """Waits for the batch of an item. Its tensors are the caller's; on a GPU they are valid in its current stream.

        Raises:
            DecodeError: DALI cannot decode some of its samples. Only this item is lost.
            RuntimeError: DALI ran out of memory on the batch, although each of its samples fits alone.
        """
