"""What the DALI loader asks of its decoders, one for GPUs and one for CPUs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from pipeline.batch import Batch
from pipeline.plan.batch_plan import BatchPlan
from pipeline.shards.codecs import Inputs


@dataclass(eq=False, kw_only=True)
class InFlight:
    """A batch on its way through the loader: first its plan, then the bytes read for it, then a decoder's handle."""

    plan: BatchPlan
    video: Inputs | None
    """What the codec reads for the batch; None without video, and once the decoder has taken it over."""
    pcm: np.ndarray | None
    """int16 [B, samples]; None without audio, and once the decoder has taken it over."""
    handle: Any = None
    """What the decoder needs to find the result; only the decoder looks at it."""


class Decoder(Protocol):
    """Turns bytes into batches. Items may be submitted by several iterators in turn, and need not be collected."""

    depth: int
    """How many items may be submitted before the result of the first is asked for."""

    def submit(self, item: InFlight) -> None:
        """Takes over the bytes of an item and returns without waiting for the result."""

    def result(self, item: InFlight) -> Batch:
        """Waits for the batch of an item; its tensors belong to the caller, on a GPU in the caller's current stream.

        Raises:
            DecodeError: DALI cannot decode some of its samples. Only this item is lost.
            RuntimeError: DALI had no memory for the batch, though it had for each of its samples.
        """
