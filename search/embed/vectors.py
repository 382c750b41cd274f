"""Embeds rows of a data set: reads the clips of each row, encodes them and averages their unit vectors.

Note [Equal bytes]

The bytes of a part depend on nothing but its rows: neither on the other parts, nor on the number of cores or processes,
nor on an interruption. Kernels for convolutions and matrix products choose their order of summation by the shape of the
batch and the number of threads. So a part always consists of the same batches, and each batch is encoded by a single
thread; several batches are encoded at the same time.
"""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch

from common.environment import available_cores
from common.finite import require_finite
from evaluation.features import QueryEncoders, unit_rows
from pipeline.batch import Batch
from pipeline.load.clip_loader import ClipLoader
from pipeline.load.cpu_threads import SingleThreadTorchPool
from pipeline.plan.bad_samples import SampleError
from pipeline.plan.clips import ClipPlan
from search.embed.windows import Rows
from search.encoders import DIVERGED


class Embedded(NamedTuple):
    """The finished rows of a part, without those of unreadable samples."""

    rows: Rows
    vectors: dict[str, np.ndarray]
    """Modality -> unit vectors, float32 [R, D]."""
    unreadable: dict[int, str]
    """Sample -> why it cannot be read."""


@dataclass(kw_only=True)
class _Part:
    """A part in progress; clip c of row r is clip r * clips + c of the plan."""

    rows: Rows
    plan: ClipPlan
    vectors: dict[str, torch.Tensor]
    """Modality -> embeddings of the clips, float32 [R * clips, D], filled in as batches are encoded."""
    bad: dict[int, str] = field(default_factory=dict)
    """Unreadable samples found so far, and why."""
    encoding: deque[Future[None]] = field(default_factory=deque)

    def good(self) -> np.ndarray:
        """Which rows are of samples that are not known to be unreadable, bool [R]."""
        return ~np.isin(self.rows.ids, list(self.bad))

    def readable_plan(self, clips: int) -> ClipPlan:
        """The plan, with clips of unreadable samples replaced by the first readable one: all batches keep their shape,
        and the rows of the stand-ins are dropped in the end."""
        if not self.bad:
            return self.plan
        good = self.good().repeat(clips)
        first = int(np.flatnonzero(good)[0])
        rows = np.flatnonzero(~good).tolist()
        return self.plan.with_rows(rows, self.plan[[first] * len(rows)])


class _Parts:
    """The parts in progress by order of request, planned when the loader's reading thread asks for them."""

    def __init__(self, requests: Iterator[_Part]) -> None:
        self._requests = requests
        self._lock = threading.Lock()  # a thread of an abandoned iterator may still be planning
        self._planned: dict[int, _Part] = {}
        self._count = 0

    def get(self, place: int) -> _Part | None:
        """The part at this place in the order of requests; None if there are not so many."""
        with self._lock:
            while self._count <= place:
                part = next(self._requests, None)
                if part is None:
                    return None
                self._planned[self._count] = part
                self._count += 1
            return self._planned[place]

    def pop(self, place: int) -> _Part:
        with self._lock:
            return self._planned.pop(place)

    def plans(self, place: int) -> Iterator[ClipPlan]:
        """Plans of the parts from `place` on."""
        while (part := self.get(place)) is not None:
            yield part.plan
            place += 1


class Embedder:
    """Embeds rows of the data set of a loader.

    Args:
        loader: its batches are encoded.
        model: the encoders, in eval mode, on the loader's device.
        dim: length D of the embeddings.
        modalities: the streams to encode; the loader must have them.
        clips: number of clips per row.
        processes: number of processes on this machine that share its cores.
    """

    def __init__(
        self,
        loader: ClipLoader[Any],
        model: QueryEncoders,
        *,
        dim: int,
        modalities: Sequence[str],
        clips: int,
        processes: int = 1,
    ) -> None:
        self.loader, self._model, self._dim, self._clips = loader, model, dim, clips
        self.modalities = tuple(modalities)
        # The loader does not read what is not needed.
        loader.has_video = loader.has_video and "video" in modalities
        loader.has_audio = loader.has_audio and "audio" in modalities
        self._pool = None
        if loader.device.type == "cpu":
            self._pool = SingleThreadTorchPool(available_cores(processes=processes), idle=False)

    def batches(self, rows: int) -> int:
        """Number of batches of a part with so many rows."""
        return math.ceil(rows * self._clips / self.loader.batch_size)

    def embed(self, requests: Iterable[Rows]) -> Iterator[Embedded | None]:
        """Embeds parts in order. Yields once per batch: the part that it completes, or None.

        Samples that cannot be read are left out of their part, whatever other parts hold of them.

        Args:
            requests: the rows of each part; read ahead by another thread.

        Raises:
            NotFiniteError: an embedding is not finite.
            SampleError: reading fails, but no single sample is at fault.
        """
        parts = _Parts(self._planned(rows) for rows in requests)
        place = batch = 0
        while parts.get(place) is not None:
            try:
                for clips in self.loader.carry_out_all(parts.plans(place)):
                    part = parts.get(place)
                    assert part is not None
                    self._encode(clips, part, batch)
                    batch += 1
                    if batch < self.batches(len(part.rows.ids)):
                        yield None
                    else:
                        yield self._finished(parts.pop(place))
                        place, batch = place + 1, 0
                return
            except SampleError:
                # The error may be of a part that is read ahead, so read this one again alone.
                part = parts.get(place)
                assert part is not None
                yield from self._alone(part, batch)
                parts.pop(place)
                place, batch = place + 1, 0

    def _alone(self, part: _Part, batch: int) -> Iterator[Embedded | None]:
        """Embeds a part from a batch on, and finds its unreadable samples."""
        last = self.batches(len(part.rows.ids))
        while batch < last and part.good().any():
            plan = part.readable_plan(self._clips)[batch * self.loader.batch_size :]
            try:
                for clips in self.loader.carry_out(plan):
                    self._encode(clips, part, batch)
                    batch += 1
                    if batch < last:
                        yield None
            except SampleError as error:
                if error.sample is None or error.sample in part.bad:
                    raise
                part.bad[error.sample] = error.reason or str(error)
        yield self._finished(part)

    def _planned(self, rows: Rows) -> _Part:
        plan = self.loader.planner.windows(rows.ids, rows.begin, rows.end, clips=self._clips)
        vectors = {modality: torch.empty(len(plan), self._dim) for modality in self.modalities}
        return _Part(rows=rows, plan=plan, vectors=vectors)

    def _encode(self, clips: Batch, part: _Part, number: int) -> None:
        first = number * self.loader.batch_size
        places = slice(first, first + len(clips.ids))
        if self._pool is None:
            self._fill(clips, part, places)
            return
        while len(part.encoding) >= 2 * self._pool.count:
            part.encoding.popleft().result()
        part.encoding.append(self._pool.submit(self._fill, clips, part, places))

    @torch.no_grad()
    def _fill(self, clips: Batch, part: _Part, places: slice) -> None:
        for modality, out in part.vectors.items():
            out[places] = self._model.query[modality](getattr(clips, modality)).embedding

    def _finished(self, part: _Part) -> Embedded:
        while part.encoding:
            part.encoding.popleft().result()
        good = part.good()
        number, *arrays = part.rows
        rows = Rows(number, *(array[good] for array in arrays))
        vectors = {}
        for modality, clips in part.vectors.items():
            by_row = clips.numpy().reshape(len(good), self._clips, self._dim)[good]
            values, what = by_row.reshape(len(by_row), self._clips * self._dim), f"the {modality} embeddings"
            require_finite(values, what, name=self._name(rows), advice=DIVERGED)
            vectors[modality] = unit_rows(by_row.mean(axis=1, dtype=np.float64)).astype(np.float32)
        return Embedded(rows, vectors, part.bad)

    def _name(self, rows: Rows) -> Callable[[int], str]:
        return lambda row: self.loader.dataset.source(int(rows.ids[row]))
